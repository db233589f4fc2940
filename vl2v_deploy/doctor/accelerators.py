"""GPU, driver, CUDA and TensorRT as torch, onnxruntime and TensorRT see them, each in its own process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from vl2v_deploy.doctor.children import Failed, answer_of
from vl2v_deploy.doctor.findings import Finding, Level

DRIVER_S = 15.0  # nvidia-smi answers in less than one, unless the driver hangs
_TORCH = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": None, "devices": []}
found["torchvision"] = None
if torch.cuda.is_available():
    found["cudnn"] = torch.backends.cudnn.version()
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found["devices"].append(f"{device.name}, compute capability {device.major}.{device.minor}")
    torch.ones(2, device="cuda").sum().item()
try:
    import torchvision
    found["torchvision"] = torchvision.__version__
except ModuleNotFoundError as error:
    if error.name != "torchvision":
        raise
print(json.dumps(found))
"""
# A graph of one operator, Neg, of the opset and the IR version of our bundles: 18 and 10.
_GRAPH = "CAo6MgoLCgF4EgF5IgNOZWcSAWdaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAS"
_ONNXRUNTIME = f"""
import base64, json, os, onnxruntime
graph = base64.b64decode({_GRAPH!r})
import numpy
session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
[answer] = session.run(None, {{"x": numpy.ones(1, numpy.float32)}})
assert answer[0] == -1, answer
found = {{"onnxruntime": onnxruntime.__version__, "providers": {{}}}}
from vl2v_deploy.client.providers import CPU, CUDA, TENSORRT
from vl2v_deploy.client.session import open_session
for name in onnxruntime.get_available_providers():
    found["providers"][name] = None
    if name in (CUDA, TENSORRT):
        try:
            open_session(graph, name, 1)
        except Exception as error:
            found["providers"][name] = " ".join(str(error).split())
print(json.dumps(found), flush=True)
os._exit(0)  # a driver that hangs at the end is of no interest here
"""
_TENSORRT = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # packages and their modules


def check_driver() -> Iterator[Finding]:
    """NVIDIA's GPUs and driver, as nvidia-smi lists them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Finding("gpu", "note", "no NVIDIA driver: nvidia-smi is not here; all runs on the CPU")
        return
    query = [program, "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    fix = "install or restart NVIDIA's driver until nvidia-smi lists the GPU"
    try:
        ran = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("gpu", "broken", f"nvidia-smi: {type(error).__name__}: no answer", fix)
        return
    if ran.returncode:
        said = " ".join((ran.stdout + ran.stderr).split())[:300]
        yield Finding("gpu", "broken", f"nvidia-smi ended with exit code {ran.returncode}: {said}", fix)
        return
    for line in ran.stdout.splitlines():
        name, driver, memory, capability = (part.strip() for part in line.split(","))
        what = f"{name}, {memory}, compute capability {capability}, driver {driver}"
        yield Finding("gpu", "ok", what, "", {"gpu": name, "driver": driver, "memory": memory})


def check_torch() -> Iterator[Finding]:
    """Whether torch and torchvision can be imported, and which GPUs torch computes on."""
    version = _version("torch")
    if version is None:
        return  # the extra that brings it is said to be missing
    found = answer_of(_TORCH)
    if isinstance(found, Failed):
        fix = "pip install --force-reinstall torch torchvision, both from the same index"
        yield Finding("torch", "broken", f"torch {version}: {found.why}", fix)
        return
    words = f"torch {found['torch']}, torchvision {found['torchvision'] or 'not installed'}"
    if found["devices"]:
        what = f"{words}: CUDA {found['cuda']}, cuDNN {found['cudnn']}, {'; '.join(found['devices'])}"
        yield Finding("torch", "ok", what, "", found)
    elif found["cuda"] is None:
        level: Level = "warning" if shutil.which("nvidia-smi") else "ok"
        fix = "install torch from the index for your CUDA: pytorch.org/get-started" * (level == "warning")
        yield Finding("torch", level, f"{words}: built for the CPU alone", fix, found)
    elif shutil.which("nvidia-smi"):
        what = f"{words}: built for CUDA {found['cuda']}, sees no GPU"
        fix = "a newer driver, or a torch for an older CUDA; is CUDA_VISIBLE_DEVICES empty?"
        yield Finding("torch", "warning", what, fix, found)
    else:
        yield Finding("torch", "ok", f"{words}: built for CUDA {found['cuda']}, sees no GPU", "", found)


def check_onnxruntime() -> Iterator[Finding]:
    """Whether onnxruntime runs a graph, and which of its GPU providers can run one here."""
    if not any(_version(name) for name in ("onnxruntime", "onnxruntime-gpu")):
        return  # it is said to be missing
    found = answer_of(_ONNXRUNTIME)
    if isinstance(found, Failed):
        what = f"onnxruntime cannot run a graph of one operator: {found.why}"
        yield Finding("onnxruntime", "broken", what, "pip install --force-reinstall onnxruntime numpy")
        return
    providers: dict[str, Any] = found["providers"]
    runs = [name for name, problem in providers.items() if problem is None]
    what = f"onnxruntime {found['onnxruntime']} runs: {', '.join(runs)}"
    yield Finding("onnxruntime", "ok", what, "", found)
    for problem in filter(None, providers.values()):
        what, _, fix = problem.partition("; ")
        has_gpu = shutil.which("nvidia-smi") is not None
        yield Finding("onnxruntime", "warning" if has_gpu else "note", what, fix)


def check_tensorrt() -> Iterator[Finding]:
    """Whether TensorRT and TensorRT for RTX can be imported, where they are installed."""
    for package, module in _TENSORRT.items():
        version = _version(package)
        if version is None:
            continue
        found = answer_of(f"import json, {module} as m; print(json.dumps({{'version': m.__version__}}))")
        if isinstance(found, Failed):
            fix = f"pip install --force-reinstall '{package}=={version}'"
            yield Finding("tensorrt", "broken", f"{package} {version}: {found.why}", fix)
        else:
            yield Finding("tensorrt", "ok", f"{package} {found['version']} can be imported", "", found)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
