"""What `doctor` says of installed packages: on environments that are made up of metadata alone."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path

import packaging.requirements
import packaging.specifiers  # noqa: F401  (the made-up environments hold no modules)
import pytest

from vl2v_deploy.doctor.findings import Finding
from vl2v_deploy.doctor.packages import check_conflicts, check_packages, check_python, check_runtimes

OURS = (
    "numpy>=1.24.2,<3",
    'onnxruntime>=1.18,<2; extra == "cpu"',
    'onnxruntime-gpu>=1.24,<2; extra == "gpu"',
    'torch>=2.11,<3; extra == "train"',
    'torchvision>=0.26,<1; extra == "train"',
    'fastapi>=0.120; extra == "serve"',
    'numpy>=2; python_version < "3" and extra == "train"',
)
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """An environment that holds what is installed by this, and nothing else."""
    library = [path for path in sys.path if path.startswith(sys.base_prefix) and "site-packages" not in path]
    # the library stays: importlib.metadata imports late on Python 3.13
    monkeypatch.setattr(sys, "path", [str(tmp_path), *library])

    def put(name: str, version: str, *requires: str, python: str = ">=3.11", module: str = "") -> None:
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = [
            *("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Requires-Python: {python}"),
            *(f"Requires-Dist: {line}" for line in requires),
        ]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "RECORD").write_text(f"{module or name}/__init__.py,,\n{info.name}/METADATA,,\n")
        package = tmp_path / (module or name)
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()  # from Python 3.12 on, only files that are there count

    return put


def levels(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.what) for finding in findings]


def test_versions_inside_their_ranges_are_named_and_extras_that_are_missing(install: Install) -> None:
    install("vl2v-deploy", "0.1.0", *OURS)
    install("numpy", "1.26.4")
    install("onnxruntime", "1.18.1")
    found = list(check_packages())
    assert levels(found) == [
        ("ok", "inside their tested ranges: numpy 1.26.4, onnxruntime 1.18.1"),
        ("note", "extra train is not installed: torch, torchvision"),
        ("note", "extra serve is not installed: fastapi"),
    ]  # not gpu: its onnxruntime would break the one that is there
    assert found[1].fix.endswith("pip install 'vl2v-deploy[train]'")
    assert list(check_runtimes()) == [] and list(check_conflicts()) == []


def test_a_version_outside_its_range_is_a_warning_with_the_command(install: Install) -> None:
    install("vl2v-deploy", "0.1.0", *OURS)
    install("numpy", "3.0.0")
    install("torch", "2.10.0+cu126")
    install("torchvision", "0.26.0")
    warned = [finding for finding in check_packages() if finding.level == "warning"]
    assert levels(warned) == [
        ("warning", "numpy 3.0.0 is outside the tested range <3,>=1.24.2"),
        ("warning", "torch 2.10.0+cu126 is outside the tested range <3,>=2.11 of the extra train"),
    ]
    assert warned[1].fix == "pip install 'torch<3,>=2.11'"


def test_an_extra_that_is_not_whole_and_a_base_that_is_not(install: Install) -> None:
    install("vl2v-deploy", "0.1.0", *OURS)
    install("torch", "2.11.0")
    found = levels(list(check_packages()))
    assert ("broken", "not installed: numpy") in found
    assert ("note", "extra train is not whole: torchvision") in found
    assert any(what.startswith("extra gpu is not installed") for _, what in found)


def test_two_onnxruntimes_or_none_are_broken(install: Install) -> None:
    [found] = check_runtimes()
    assert (found.level, found.fix) == ("broken", "pip install 'vl2v-deploy[cpu]' (or [gpu], never both)")
    install("onnxruntime", "1.30.0")
    install("onnxruntime-extensions", "0.12", module="onnxruntime_extensions")
    assert list(check_runtimes()) == []
    install("onnxruntime-gpu", "1.31.0", module="onnxruntime")
    [found] = check_runtimes()
    assert found.level == "broken" and "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0" in found.what
    assert found.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu;")


def test_a_torchvision_for_another_torch_is_found(install: Install) -> None:
    install("vl2v-deploy", "0.1.0", *OURS)
    install("torch", "2.11.0+cu130")
    install("torchvision", "0.25.0", "torch (==2.10.0)", 'scipy; extra == "scipy"', "gdown")
    [found] = check_conflicts()
    assert found.level == "warning"
    assert found.what == "torchvision 0.25.0 was made for torch ==2.10.0, not for 2.11.0+cu130"
    assert found.fix == "pip install -U 'torchvision' 'torch'"


def test_what_cannot_be_compared_is_said(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = check_packages()
    assert found.level == "unknown" and "it runs from a folder" in found.what
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    [found] = check_packages()
    assert (found.level, found.fix) == ("unknown", "pip install packaging")


def test_another_python_than_asked_for_is_broken(install: Install) -> None:
    install("vl2v-deploy", "0.1.0", python=">=3.99")
    [found] = check_python()
    assert found.level == "broken" and ">=3.99 is needed" in found.what
    assert found.facts["python"] == platform.python_version()
