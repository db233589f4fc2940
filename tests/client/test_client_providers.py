"""Execution providers: what was asked for runs, or the error says why not and what to install.

No GPU is needed: onnxruntime is a stand-in that has the libraries of its GPU build, which do not load.
"""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.helpers.manifests import made_up_file, made_up_manifest
from vl2v_deploy.client import Bundle, providers, session
from vl2v_deploy.client.providers import named_providers, problem_with, remedy
from vl2v_deploy.client.session import open_runtime, open_session
from vl2v_deploy.errors import MissingExtra, ProviderError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
AZURE = "AzureExecutionProvider"
MISSING = "lib{}: cannot open shared object file: No such file or directory"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A graph that gives back its input."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", value[:1], value[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def gpu_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """onnxruntime as its GPU build says it is; its sessions are the real one's, on the CPU."""
    fake = types.ModuleType("onnxruntime")
    fake.__dict__.update(vars(onnxruntime))
    fake.__file__ = str(tmp_path / "onnxruntime/__init__.py")
    fake.__dict__["get_available_providers"] = lambda: [TENSORRT, CUDA, CPU]

    def preload_dlls() -> None:
        print("Failed to load libcublasLt.so.13")

    fake.__dict__["preload_dlls"] = preload_dlls
    (tmp_path / "onnxruntime/capi").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def in_place_of_the_class(make: Callable[..., Any]) -> Callable[..., Any]:
    """The function as onnxruntime.InferenceSession, whose sessions can say which provider runs what."""
    setattr(make, providers.ASSIGNMENT, onnxruntime.InferenceSession.get_provider_graph_assignment_info)
    return make


def loader_says(monkeypatch: pytest.MonkeyPatch, said: Callable[[str], str | None]) -> list[str]:
    """The system's loader, replaced; the file names that it was asked for."""
    asked: list[str] = []

    def load(path: str, mode: int = 0) -> None:
        asked.append(Path(path).name)
        if message := said(Path(path).name):
            raise OSError(message)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr("sys.platform", "linux")
    return asked


@pytest.mark.parametrize(
    ("provider", "library", "install"),
    [
        ("cuda", "cublasLt.so.13", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("cuda", "cudnn.so.9", "cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("cuda", "cuda.so.1", "install NVIDIA's driver"),
        ("tensorrt", "nvinfer.so.10", "install TensorRT 10: pip install 'tensorrt-cu13>=10,<11'"),
        ("tensorrt", "nvonnxparser.so.11", "install TensorRT 11: pip install 'tensorrt-cu13>=11,<12'"),
    ],
)
def test_the_missing_library_is_named_and_what_brings_it(
    provider: str,
    library: str,
    install: str,
    gpu_build: types.ModuleType,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = MISSING.format(library)
    asked = loader_says(monkeypatch, lambda name: message if name.endswith(f"_{provider}.so") else None)
    with pytest.raises(ProviderError) as caught:
        open_session(model, provider)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{providers.SHORT_NAMES[provider]} cannot run here: {message}; ")
    assert install in line
    assert f"available: {TENSORRT}, {CUDA}, {CPU}" in line
    assert asked[-2:] == ["libonnxruntime_providers_shared.so", f"libonnxruntime_providers_{provider}.so"]
    told = capsys.readouterr()
    assert told.out == ""  # onnxruntime prints what it misses, and standard output is the caller's
    assert "Failed to load libcublasLt.so.13" in told.err


def test_threads_that_load_at_once_leave_standard_output_alone(
    gpu_build: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader_says(monkeypatch, lambda _: None)
    begun, over = threading.Event(), threading.Event()

    def preload_dlls() -> None:
        if not begun.is_set():  # the first to come is the first to go, while the second is at it
            begun.set()
            time.sleep(0.1)
            over.set()
        else:
            over.wait(10)
            time.sleep(0.1)

    monkeypatch.setattr(gpu_build, "preload_dlls", preload_dlls)
    before = sys.stdout
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(problem_with, CUDA)
        assert begun.wait(10)
        assert pool.submit(problem_with, CUDA).result() is first.result() is None
    assert sys.stdout is before


def test_a_real_library_with_a_missing_dependency(tmp_path: Path) -> None:
    """What the real loader says is what the error is made of."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")

    def build(name: str, *options: str) -> None:
        command = [compiler, "-shared", "-x", "c", "/dev/null", "-o", name, *options]
        subprocess.run(command, check=True, cwd=tmp_path)

    build("libonnxruntime_providers_shared.so")
    build("libnvinfer.so.10", "-Wl,-soname,libnvinfer.so.10")
    library = tmp_path / "libonnxruntime_providers_tensorrt.so"
    build(library.name, "-Wl,--no-as-needed", "-L.", "-l:libnvinfer.so.10")
    (tmp_path / "libnvinfer.so.10").unlink()
    said = providers.loader_problem(library)
    assert said == MISSING.format("nvinfer.so.10")
    assert "tensorrt-cu12>=10,<11" in remedy(said, "12")
    build(library.name)  # without the dependency
    assert providers.loader_problem(library) is None


def test_libraries_that_load_without_a_gpu_are_told_too(
    gpu_build: types.ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader_says(monkeypatch, lambda _: None)
    made: list[dict[str, Any]] = []

    def falls_back(path: str, options: Any, **given: Any) -> Any:
        made.append(given)
        return onnxruntime.InferenceSession(path, options, providers=[CPU])

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA failure 35:\nCUDA driver version is insufficient")

    monkeypatch.setattr(gpu_build, "InferenceSession", in_place_of_the_class(falls_back))
    with pytest.raises(
        ProviderError, match=r"CUDAExec.* cannot run here: onnxruntime fell back to the CPU; .*smi"
    ):
        open_session(model, ("cuda", {"device_id": 1}))
    # TF32 would round where the file says fp32; onnxruntime's own fallback is off
    assert made == [{"providers": [(CUDA, {"use_tf32": "0", "device_id": 1})], "enable_fallback": 0}]
    monkeypatch.setattr(gpu_build, "InferenceSession", in_place_of_the_class(fails))
    with pytest.raises(
        ProviderError, match="says: CUDA failure 35: CUDA driver version is insufficient; see with"
    ):
        open_session(model, "cuda")


@pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="this onnxruntime has no Azure"
)
def test_a_provider_that_leaves_all_to_the_cpu_is_refused(model: Path) -> None:
    # it calls models on a server, and no operator of a student is its
    with pytest.raises(
        ProviderError, match=f"{AZURE} cannot run this student: it supports none .*; available: {AZURE}"
    ):
        open_session(model, AZURE)
    assert open_session(model, ["cpu", AZURE]).get_providers()[0] == CPU


def test_auto_takes_what_runs_and_says_why_not_the_better(
    gpu_build: types.ModuleType,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(session, "int8_instruction", lambda: None)
    files = dict.fromkeys(("fp32", "fp16"), made_up_file(model.name))
    bundle = Bundle(model.parent, made_up_manifest(precisions=files))
    asked = loader_says(monkeypatch, lambda name: MISSING.format("cudnn.so.9") if "cuda" in name else None)
    with caplog.at_level(logging.INFO, "vl2v_deploy.client"):
        _, runtime = open_runtime(bundle, "auto", "auto", 1)
    assert (runtime.provider, runtime.precision, runtime.threads) == (CPU, "fp32", 1)
    assert "CUDAExecutionProvider cannot run here: libcudnn.so.9" in runtime.why
    assert runtime.why in caplog.text
    assert not any("tensorrt" in name for name in asked)  # only when asked for by name
    # and where CUDA runs, it is what runs, in fp16
    loader_says(monkeypatch, lambda _: None)
    part = types.SimpleNamespace(ep_name=CUDA)

    class Session:
        def get_providers(self) -> list[str]:
            return [CUDA, CPU]

        def get_provider_graph_assignment_info(self) -> list[object]:
            return [part]

    ran = Session()
    monkeypatch.setattr(gpu_build, "InferenceSession", in_place_of_the_class(lambda *_, **__: ran))
    found, runtime = open_runtime(bundle, "auto", "auto", None)
    assert found is ran and (runtime.provider, runtime.precision) == (CUDA, "fp16")


def test_an_onnxruntime_too_old_to_say_what_runs_is_for_the_cpu_alone(
    gpu_build: types.ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake of onnxruntime before 1.24."""
    monkeypatch.setattr(gpu_build, "InferenceSession", type("InferenceSession", (), {}))
    for name in (CUDA, TENSORRT):
        problem = problem_with(name)
        assert problem is not None and "pip install 'onnxruntime-gpu>=1.24'" in problem
    assert problem_with(CPU) is None
    with pytest.raises(ProviderError, match="fall-back to the CPU could not be seen"):
        open_session(model, "cuda")


def test_a_build_without_the_provider_says_which_package_has_it(model: Path) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this is the GPU build of onnxruntime")
    problem = problem_with(CUDA)
    assert problem is not None
    assert f"onnxruntime {onnxruntime.__version__} was built without it; available: " in problem
    assert "pip uninstall onnxruntime; pip install 'vl2v-deploy[gpu]'" in problem
    with pytest.raises(ProviderError, match="CUDAExecutionProvider cannot run here"):
        open_session(model, ["cpu", "cuda"])  # those after the first must be there, too


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, [(CPU, {})]),
        ("CPU", [(CPU, {})]),
        (CPU, [(CPU, {})]),
        (("cuda", {"use_tf32": "1"}), [(CUDA, {"use_tf32": "1"})]),
        (["tensorrt", ("cuda", {}), "cpu"], [(TENSORRT, {}), (CUDA, {"use_tf32": "0"}), (CPU, {})]),
    ],
)
def test_names_and_options(asked: Any, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert named_providers(asked) == expected


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ([], "none is named; name one"),
        ("CUDAExecutionProvide", "called 'CUDAExecutionProvide'; did you mean 'CUDAExecutionProvider'"),
        ("gpu", "called 'gpu'; expected cpu, cuda, tensorrt or"),
    ],
)
def test_names_that_are_none(asked: Any, reason: str) -> None:
    with pytest.raises(ProviderError, match=reason):
        named_providers(asked)


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vl2v-deploy\[cpu\]'"):
        open_session(b"", "cpu")


def test_sessions_are_opened_from_files_and_bytes(model: Path) -> None:
    for source in (model, model.read_bytes()):
        opened = open_session(source, threads=1)
        assert opened.get_session_options().intra_op_num_threads == 1
        assert opened.run(None, {"a": np.ones(1, np.float32)})[0] == 1
