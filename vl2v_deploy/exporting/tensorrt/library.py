"""The seam between `tensorrt` and `tensorrt_rtx`: one Python API in two libraries, and where they differ.

|                        | tensorrt 10.12 to 11.x      | tensorrt_rtx 1.x                                |
|------------------------|-----------------------------|-------------------------------------------------|
| builds                 | on the GPU that will run it | anywhere, for the compute capabilities given    |
| timing cache           | yes                         | none: the calls do nothing and are deprecated   |
| version-compatible     | yes                         | no: needs a lean runtime that it lacks           |
| hardware compatibility | yes                         | no: warns, and ignores the request              |
| CUDA graph             | captured by the caller      | captured by itself, if its runtime config says  |

Strong typing is a flag of 10.x that 11.x takes and ignores, because it knows nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vl2v_deploy.client.passport import Flavour
from vl2v_deploy.errors import ExportError, MissingExtra, ProviderError
from vl2v_deploy.exporting.tensorrt.passport import EXTRAS, TITLES, Here

WITHOUT_GPU = "; without a GPU, --rtx builds engines of TensorRT-RTX (pip install 'vl2v-deploy[rtx]')"


def load_library(flavour: Flavour) -> ModuleType:
    """The TensorRT library of this flavour.

    Raises MissingExtra when it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(flavour)
    except ImportError as error:
        hint = WITHOUT_GPU if flavour == "tensorrt" else ""
        raise MissingExtra(flavour, EXTRAS[flavour], hint) from error


def here(flavour: Flavour) -> Here:
    """This machine as that library sees it; what is missing is None."""
    try:
        version: str | None = load_library(flavour).__version__
    except MissingExtra:
        version = None
    gpu = torch.cuda.is_available()
    return Here(
        flavour=flavour,
        version=version,
        compute_capability=capability_here() if gpu else None,
        gpu=torch.cuda.get_device_name() if gpu else None,
        platform=f"{platform.system()}-{platform.machine()}".lower(),
    )


def capability_here() -> str:
    """Compute capability of the GPU here, such as '8.6'; there must be one."""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def known_capabilities(trt: ModuleType) -> list[str]:
    """Compute capabilities that TensorRT-RTX builds for, such as '8.6', the smallest first."""
    names = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    return sorted((_dotted(name) for name in names), key=float)


def driver_version() -> str | None:
    """Version of the NVIDIA driver, such as '580.65.06'; None where there is none."""
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        try:
            nvml = ctypes.CDLL(name)
        except OSError:
            continue
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) == 0:
            return text.value.decode()
    return None


@functools.cache
def logger_of(trt: ModuleType) -> Any:
    """The process's one logger of this library; it keeps the messages until `clear`.

    The library reports why something failed only to its logger, and uses the first one of the process: a
    second one is ignored.
    """

    class Collecting(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(one_line(message))
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(one_line(message))

        def reasons(self) -> str:
            return "; ".join(dict.fromkeys(self.errors)) or "it gave no reason"

    return Collecting()


def start_builder(trt: ModuleType, flavour: Flavour) -> Any:
    """A builder whose messages go to `logger_of`, emptied; ExportError when the library cannot start here."""
    logger = logger_of(trt)
    logger.clear()
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # what the binding makes of a null pointer
        raise ExportError(f"{TITLES[flavour]} cannot start here: {logger.reasons()}") from error


def load_engine(trt: ModuleType, plan: Path, *, trusted: bool) -> Any:
    """The plan's engine on the GPU here; the caller has read its passport.

    trusted: run the code that a version-compatible plan brings along

    Raises ProviderError with the library's own words when it refuses the plan.
    """
    logger = logger_of(trt)
    logger.clear()
    try:
        runtime = trt.Runtime(logger)
        runtime.engine_host_code_allowed = trusted
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    except (TypeError, RuntimeError) as error:
        raise ProviderError(f"{plan.name}: cannot be loaded here: {logger.reasons()}") from error
    if engine is None:
        raise ProviderError(f"{plan.name}: cannot be loaded here: {logger.reasons()}")
    return engine


def one_line(message: str) -> str:
    """The library's message on one line, without what it logs at every call on a machine without a GPU."""
    lines = [line.strip() for line in message.splitlines()]
    useful = [line for line in lines if line and "catchCudaError" not in line]
    return " ".join(" ".join(useful or lines).split())


def _dotted(name: str) -> str:
    """'SM86' -> '8.6', 'SM120' -> '12.0'."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"
