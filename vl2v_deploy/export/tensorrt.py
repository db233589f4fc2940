"""TensorRT engines from the bundle's ONNX file, strongly typed: precision lives in the graph.

One seam for two libraries with the same Python API: `tensorrt` builds on the GPU that will run the engine,
`tensorrt_rtx` builds for chosen compute capabilities on any machine.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from vl2v_deploy.client.bundle import sha256_of
from vl2v_deploy.errors import ExportError, MissingExtra

Flavour = Literal["tensorrt", "tensorrt_rtx"]
_WITHOUT_GPU = "; without a GPU, --rtx builds engines of TensorRT-RTX (pip install 'vl2v-deploy[rtx]')"


@dataclass(frozen=True)
class Profile:
    """Optimization profile: batch sizes the engine takes, and the one it is fastest at."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    compute_capabilities: such as '8.6'; empty = of the GPU here
    """

    flavour: Flavour
    profile: Profile
    compute_capabilities: tuple[str, ...] = ()


def profile_from_text(text: str) -> Profile:
    """The profile written as MIN:OPT:MAX batch sizes.

    Raises ExportError unless they are three whole numbers, 1 <= min <= opt <= max.

    >>> profile_from_text("1:8:64")
    Profile(min=1, opt=8, max=64)
    """
    try:
        smallest, best, largest = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ExportError(f"--profile {text}: expected MIN:OPT:MAX batch sizes, such as 1:8:64") from error
    if not 1 <= smallest <= best <= largest:
        raise ExportError(f"--profile {text}: expected 1 <= min <= opt <= max")
    return Profile(smallest, best, largest)


def engine_requests(*, trt: bool, rtx: bool, profile: str, compute_capability: str) -> list[EngineRequest]:
    """The engines that the options of `vl2v-deploy export` ask for; each was proved buildable here.

    compute_capability: comma-separated, for TensorRT-RTX only

    Raises what `profile_from_text` and `require_buildable` raise.
    """
    if compute_capability and not rtx:
        raise ExportError("--compute-capability goes with --rtx: TensorRT builds for the GPU that is here")
    batches = profile_from_text(profile)
    targets = tuple(part.strip() for part in compute_capability.split(",") if part.strip())
    requests = [EngineRequest("tensorrt", batches)] if trt else []
    if rtx:
        requests.append(EngineRequest("tensorrt_rtx", batches, targets))
    for request in requests:
        require_buildable(request)
    return requests


def require_buildable(request: EngineRequest) -> ModuleType:
    """The library that can build this engine here.

    Raises MissingExtra when it is not installed; ExportError when it needs a GPU and none is here, or does
    not build for a compute capability that was asked for.
    """
    try:
        trt = importlib.import_module(request.flavour)
    except ImportError as error:
        extra = "trt" if request.flavour == "tensorrt" else "rtx"
        raise MissingExtra(request.flavour, extra, _WITHOUT_GPU if extra == "trt" else "") from error
    if request.flavour == "tensorrt":
        if not torch.cuda.is_available():
            raise ExportError(
                "--trt: TensorRT builds an engine on the GPU that will run it, and torch sees none here"
                + _WITHOUT_GPU
            )
        return trt
    known = {_dotted(name) for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    if not request.compute_capabilities and not torch.cuda.is_available():
        raise ExportError(
            "--rtx: no GPU here to build for; name the target's --compute-capability, one or more of "
            f"{', '.join(sorted(known, key=float))}"
        )
    for capability in request.compute_capabilities:
        if capability not in known:
            raise ExportError(
                f"--compute-capability {capability}: TensorRT-RTX {trt.__version__} builds for "
                f"{', '.join(sorted(known, key=float))}"
            )
    return trt


def build_engine(trt: ModuleType, request: EngineRequest, onnx: Path, plan: Path) -> dict[str, Any]:
    """Write the engine and its passport (`<plan>.json`) beside it; returns the passport.

    trt:  what `require_buildable` gave
    onnx: file with the input images: uint8 (batch, S, S, 3)

    Raises ExportError with the library's own words when the graph cannot be parsed or built.
    """
    logger = _collecting_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ExportError(f"{onnx}: {request.flavour} cannot parse it: {errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    _add_profile(builder, config, network, request.profile)
    if request.compute_capabilities:
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, capability in enumerate(request.compute_capabilities):
            target = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""))
            config.set_compute_capability(target, index)
    started = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError(
            f"{onnx}: {request.flavour} cannot build it: {'; '.join(logger.messages) or 'no reason'}"
        )
    plan.write_bytes(memoryview(serialized))
    passport = {
        "flavour": request.flavour,
        "version": trt.__version__,
        "compute_capabilities": list(request.compute_capabilities) or [_capability_here()],
        "profile": asdict(request.profile),
        "strongly_typed": True,
        "tf32": False,
        "onnx_sha256": sha256_of(onnx),
        "plan_sha256": sha256_of(plan),
        "build_seconds": round(time.perf_counter() - started, 3),
        "parity": None,
        "parity_note": "built, not run: check its answers on a GPU of its compute capability",
    }
    plan.with_name(f"{plan.name}.json").write_text(json.dumps(passport, indent=2) + "\n", encoding="utf-8")
    return passport


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    images = network.get_input(0)
    _, *pixels = images.shape  # (S, S, 3)
    shapes = [(batch, *pixels) for batch in (profile.min, profile.opt, profile.max)]
    optimization = builder.create_optimization_profile()
    optimization.set_shape(images.name, *shapes)
    if config.add_optimization_profile(optimization) < 0:
        raise ExportError(f"the optimization profile {profile} was refused")


def _collecting_logger(trt: ModuleType) -> Any:
    """A logger that keeps errors, since the library says why only to its logger."""

    class Collecting(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.messages.append(" ".join(message.split()))

    return Collecting()


def _dotted(name: str) -> str:
    """'SM86' -> '8.6', 'SM120' -> '12.0'."""
    digits = name.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _capability_here() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def engine_name(request: EngineRequest, precision: str) -> str:
    """File name of an engine in the bundle, such as student.fp32.rtx-sm86-sm89.plan."""
    if request.flavour == "tensorrt":
        return f"student.{precision}.plan"
    targets: Sequence[str] = request.compute_capabilities or [_capability_here()]
    suffix = "-".join(f"sm{capability.replace('.', '')}" for capability in targets)
    return f"student.{precision}.rtx-{suffix}.plan"
