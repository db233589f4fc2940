"""Broken installations: packages that crash, hang or fail at import are findings, and end nothing else."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from vl2v_deploy.doctor import accelerators
from vl2v_deploy.doctor.children import Failed, answer_of

# A fake of torch with a GPU: what it says is put into words.
FAKE_TORCH = """
from types import SimpleNamespace as N
__version__ = "9.9"
version = N(cuda="13.0")
backends = N(cudnn=N(version=lambda: 91000))
gpu = N(name="Fake GPU", major=9, minor=0)
cuda = N(is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda _: gpu)
ones = lambda *_, **__: N(sum=lambda: N(item=lambda: 2.0))
"""


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("raise ValueError('no such\\n  symbol')", "symbol"),
        ("import sys; sys.exit(7)", "ended with exit code 7"),
        ("print('nothing')", "ended without an answer"),
        ("print('[1]')", "ended without an answer"),
        ("import time; time.sleep(60)", "gave no answer in 5 s and was ended"),
    ],
)
def test_a_child_without_an_answer_says_why(program: str, why: str) -> None:
    assert answer_of(program, limit_s=5) == Failed(why)


def test_a_child_answers_in_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("json.py").write_text("raise SystemExit('a file of the current folder was imported')")
    program = "import json, vl2v_deploy; print('noise'); print(json.dumps({'a': 1}))"
    assert answer_of(program) == {"a": 1}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the children import before any other, and no NVIDIA driver."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(accelerators, "answer_of", partial(answer_of, limit_s=8))
    monkeypatch.setattr(accelerators, "_version", lambda _: "1.2.3")
    monkeypatch.setattr(accelerators.shutil, "which", lambda _: None)
    return tmp_path


def test_a_torch_that_hangs_is_broken(packages: Path) -> None:
    (packages / "torch.py").write_text("import time; time.sleep(60)")
    [found] = accelerators.check_torch()
    assert found.level == "broken" and found.fix.startswith("pip install")
    assert found.what == "torch 1.2.3: gave no answer in 8 s and was ended"


def test_a_torchvision_that_does_not_fit_is_broken(packages: Path) -> None:
    (packages / "torch.py").write_text(FAKE_TORCH)
    (packages / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    [found] = accelerators.check_torch()
    assert found.level == "broken" and "torchvision::nms does not exist" in found.what


def test_what_torch_sees_of_a_gpu(packages: Path) -> None:
    (packages / "torch.py").write_text(FAKE_TORCH)
    (packages / "torchvision.py").write_text("__version__ = '8.8'")
    [found] = accelerators.check_torch()
    assert found.level == "ok"
    assert found.what == (
        "torch 9.9, torchvision 8.8: CUDA 13.0, cuDNN 91000, Fake GPU, compute capability 9.0"
    )


def test_an_onnxruntime_that_crashes_is_broken(packages: Path) -> None:
    (packages / "onnxruntime.py").write_text("import os; os.abort()")
    [found] = accelerators.check_onnxruntime()
    assert found.level == "broken" and found.what.endswith("crashed with SIGABRT")


def test_a_gpu_build_of_onnxruntime_says_what_cuda_lacks(packages: Path) -> None:
    """A fake that lists CUDA and cannot run there, in the place of a build for GPUs."""
    (packages / "onnxruntime.py").write_text(
        "import sys\n"
        f"sys.path.remove({str(packages)!r})\n"
        "del sys.modules['onnxruntime']\n"
        "import onnxruntime\n"
        "real = onnxruntime.get_available_providers\n"
        "onnxruntime.get_available_providers = lambda: ['CUDAExecutionProvider', *real()]\n"
    )
    runs, lacks = accelerators.check_onnxruntime()
    assert runs.level == "ok" and "CPUExecutionProvider" in runs.what and "CUDA" not in runs.what
    assert lacks.level == "note" and lacks.what.startswith("CUDAExecutionProvider cannot run here")
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in lacks.fix


def test_a_tensorrt_that_cannot_be_imported_is_broken(packages: Path) -> None:
    (packages / "tensorrt.py").write_text(
        "raise ImportError('libnvinfer.so.11: cannot open shared object file')"
    )
    (packages / "tensorrt_rtx.py").write_text("__version__ = '1.4.0'")
    broken, whole = accelerators.check_tensorrt()
    assert broken.level == "broken" and "libnvinfer.so.11" in broken.what
    assert whole.level == "ok" and whole.what == "tensorrt-rtx 1.4.0 can be imported"


@pytest.mark.parametrize(
    ("script", "level", "words"),
    [
        ("echo 'NVIDIA H200, 570.1, 143771 MiB, 9.0'", "ok", "compute capability 9.0, driver 570.1"),
        ("echo 'Driver/library version mismatch'; exit 18", "broken", "18: Driver/library version mismatch"),
        ("exec sleep 60", "broken", "TimeoutExpired: no answer"),
    ],
)
def test_the_driver_by_a_fake_nvidia_smi(
    script: str, level: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(accelerators.shutil, "which", lambda _: str(program))
    monkeypatch.setattr(accelerators, "DRIVER_S", 3.0)
    [found] = accelerators.check_driver()
    assert found.level == level and words in found.what


def test_this_installation_runs_a_graph() -> None:
    pytest.importorskip("onnxruntime")
    found = accelerators.check_onnxruntime()
    assert next(found).level == "ok" and sys.executable
