"""TensorRT engines from the bundle's ONNX files, strongly typed: precision lives in the graph.

One path for two libraries with the same Python API: `tensorrt` builds on the GPU that will run the engine,
`tensorrt_rtx` for chosen compute capabilities on any machine. engine_library.py says where else they differ.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.progress import Progress

from vl2v_deploy.client.bundle import sha256_of
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.tensorrt.library import (
    WITHOUT_GPU,
    capability_here,
    driver_version,
    here,
    known_capabilities,
    load_library,
    logger_of,
    one_line,
    start_builder,
)
from vl2v_deploy.exporting.tensorrt.options import (
    DEFAULTS,
    EngineOptions,
    EngineRequest,
    Profile,
    profile_from_text,
    require_supported,
)
from vl2v_deploy.exporting.tensorrt.passport import FORMAT, TITLES, HardwareCompatible, write_passport
from vl2v_deploy.exporting.tensorrt.progress import progress_monitor
from vl2v_deploy.exporting.tensorrt.proof import precision_proof
from vl2v_deploy.exporting.tensorrt.timing_cache import (
    attach_timing_cache,
    save_timing_cache,
    timing_cache_path,
)

__all__ = ["EngineOptions", "EngineRequest", "Profile", "profile_from_text"]  # this module is the front door

DEFAULT_PROFILE = "1:8:64"
_LEVELS: dict[HardwareCompatible, tuple[str, float]] = {
    "ampere-plus": ("AMPERE_PLUS", 8.0),
    "same-capability": ("SAME_COMPUTE_CAPABILITY", 7.5),
}


def engine_requests(
    *,
    trt: bool,
    rtx: bool,
    profile: str | None,
    compute_capability: str,
    options: EngineOptions = DEFAULTS,
) -> list[EngineRequest]:
    """The engines that the options of `vl2v-deploy export` ask for; each was proved buildable here.

    profile:            None = 1:8:64
    compute_capability: comma-separated, for TensorRT-RTX only

    Raises what `profile_from_text` and `require_buildable` raise.
    """
    if compute_capability and not rtx:
        raise ExportError("--compute-capability goes with --rtx: TensorRT builds for the GPU that is here")
    if (options != DEFAULTS or profile is not None) and not (trt or rtx):
        raise ExportError("options of an engine go with --trt or --rtx, and neither is given")
    batches = profile_from_text(DEFAULT_PROFILE if profile is None else profile)
    targets = tuple(part.strip() for part in compute_capability.split(",") if part.strip())
    requests = [EngineRequest("tensorrt", batches, options=options)] if trt else []
    if rtx:
        requests.append(EngineRequest("tensorrt_rtx", batches, targets, options))
    for request in requests:
        require_buildable(request)
    return requests


def require_buildable(request: EngineRequest) -> ModuleType:
    """The library that can build this engine here.

    Raises MissingExtra when it is not installed; ExportError when it cannot do what an option asks, needs a
    GPU and none is here, or does not build for a compute capability that was asked for.
    """
    require_supported(request.flavour, request.options)
    trt = load_library(request.flavour)
    if request.flavour == "tensorrt":
        if not torch.cuda.is_available():
            raise ExportError(
                "--trt: TensorRT builds an engine on the GPU that will run it, and torch sees none here"
                + WITHOUT_GPU
            )
        _, lowest = _LEVELS.get(request.options.hardware_compatible, ("", 0.0))
        if float(capability_here()) < lowest:
            raise ExportError(
                f"--hardware-compatible {request.options.hardware_compatible}: is built on GPUs of compute "
                f"capability {lowest} or later; the one here has {capability_here()}"
            )
        return trt
    known = ", ".join(known_capabilities(trt))
    if not request.compute_capabilities and not torch.cuda.is_available():
        raise ExportError(
            "--rtx: no GPU here to build for; name the target's --compute-capability, one or more of " + known
        )
    targets = targets_of(request)
    for capability in targets:
        if capability not in known_capabilities(trt):
            raise ExportError(
                f"--compute-capability {capability}: TensorRT-RTX {trt.__version__} builds for {known}"
            )
    if len(set(targets)) < len(targets):
        raise ExportError(f"--compute-capability {','.join(targets)}: names one twice")
    return trt


def targets_of(request: EngineRequest) -> tuple[str, ...]:
    """Compute capabilities the engine is for: those asked for, else that of the GPU here."""
    return request.compute_capabilities or (capability_here(),)


def engine_name(request: EngineRequest, precision: str) -> str:
    """File name of an engine in the bundle, such as student.fp32.rtx-sm86-sm89.plan."""
    if request.flavour == "tensorrt":
        return f"student.{precision}.plan"
    suffix = "-".join(f"sm{capability.replace('.', '')}" for capability in targets_of(request))
    return f"student.{precision}.rtx-{suffix}.plan"


def build_engine(
    trt: ModuleType,
    request: EngineRequest,
    onnx: Path,
    plan: Path,
    *,
    precision: str = "fp32",
    mac_shares: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the engine and its passport (`<plan>.json`) beside it; returns the passport.

    trt:        what `require_buildable` gave
    onnx:       file with the input images: uint8 (batch, S, S, 3)
    precision:  of the ONNX file, for the passport: the graph's own types are what is built
    mac_shares: share of the graph's MACs done in each type, for the passport
    progress:   a live display, to which a bar for each phase of the build is added while it runs

    Raises ExportError with the library's own words when the graph cannot be parsed or built; then there is no
    plan. KeyboardInterrupt cancels the build.
    """
    builder = start_builder(trt, request.flavour)
    network = _parse(trt, builder, request, onnx)
    config = builder.create_builder_config()
    _add_profile(builder, config, network, request.profile)
    _configure(trt, config, request)
    timing = _attach_timing(config, request)
    started = time.perf_counter()
    serialized = _build(trt, builder, network, config, progress)
    seconds = time.perf_counter() - started
    if serialized is None:
        raise ExportError(f"{onnx}: {request.flavour} cannot build it: {logger_of(trt).reasons()}")
    if timing.path is not None:
        timing.record["saved_bytes"] = save_timing_cache(config, timing.path)
    plan.write_bytes(memoryview(serialized))
    passport = {
        **_origin(trt, request, onnx, plan),
        **_settings(trt, config, request),
        "precision": precision,
        "precision_proof": precision_proof(trt, plan, request.profile.opt, mac_shares),
        "timing_cache": timing.record,
        "build_seconds": round(seconds, 3),
        "usable": None,
        "unusable_because": None,
        "parity": None,
        "parity_note": "built, not run: check its answers on a GPU of its compute capability",
    }
    write_passport(plan, passport)
    return passport


def _build(trt: ModuleType, builder: Any, network: Any, config: Any, progress: Progress | None) -> Any:
    """The serialized engine, or None when the library failed; KeyboardInterrupt when Ctrl-C cancelled it."""
    monitor = config.progress_monitor = progress_monitor(trt, progress)
    serialized = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    return serialized


def _parse(trt: ModuleType, builder: Any, request: EngineRequest, onnx: Path) -> Any:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger_of(trt))
    if not parser.parse(onnx.read_bytes()):
        errors = "; ".join(one_line(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise ExportError(f"{onnx}: {request.flavour} cannot parse it: {errors}")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    told = [(image.name, image.dtype.name.lower(), tuple(image.shape)) for image in inputs]
    match told:
        case [("images", "uint8", (-1, _, _, 3))]:
            return network
    raise ExportError(
        f"{onnx}: expected one input, images: uint8 (batch, S, S, 3) with a dynamic batch (-1), got "
        + (", ".join(f"{name}: {dtype} {shape}" for name, dtype, shape in told) or "none")
    )


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    images = network.get_input(0)
    _, *pixels = images.shape  # (S, S, 3)
    shapes = [(batch, *pixels) for batch in (profile.min, profile.opt, profile.max)]
    optimization = builder.create_optimization_profile()
    optimization.set_shape(images.name, *shapes)
    if config.add_optimization_profile(optimization) < 0:
        raise ExportError(f"the optimization profile {profile} was refused")


def _configure(trt: ModuleType, config: Any, request: EngineRequest) -> None:
    """Set every option, and see that the library took it."""
    options = request.options
    for flag, wanted in (("TF32", options.tf32), ("VERSION_COMPATIBLE", options.version_compatible)):
        (config.set_flag if wanted else config.clear_flag)(getattr(trt.BuilderFlag, flag))
    # Layer types can be read out of the engine only when it was built with them inside.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.builder_level is not None:
        config.builder_optimization_level = options.builder_level
    if options.hardware_compatible != "none":
        level, _ = _LEVELS[options.hardware_compatible]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.workspace_bytes is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, options.workspace_bytes)
        if (taken := config.get_memory_pool_limit(pool)) != options.workspace_bytes:
            title = TITLES[request.flavour]
            raise ExportError(
                f"--workspace-mib: {title} refuses {options.workspace_bytes} bytes, and keeps to {taken}"
            )
    if request.flavour == "tensorrt_rtx":
        targets = targets_of(request)
        config.num_compute_capabilities = len(targets)
        for index, capability in enumerate(targets):
            target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
            config.set_compute_capability(target, index)


@dataclass
class _Timing:
    record: dict[str, Any]
    path: Path | None = None


def _attach_timing(config: Any, request: EngineRequest) -> _Timing:
    if request.flavour == "tensorrt_rtx":
        return _Timing({"file": None, "note": "TensorRT-RTX has none: it measures nothing while building"})
    if request.options.timing_cache is False:
        return _Timing({"file": None, "note": "not asked for"})
    path = timing_cache_path(here(request.flavour))
    return _Timing(attach_timing_cache(config, path), path)


def _origin(trt: ModuleType, request: EngineRequest, onnx: Path, plan: Path) -> dict[str, Any]:
    """What the engine was made from, by what, where and for which GPUs."""
    machine = here(request.flavour)
    return {
        "format": FORMAT,
        "plan": plan.name,
        "flavour": request.flavour,
        "version": trt.__version__,
        "cuda": torch.version.cuda,
        "driver": driver_version(),
        "platform": machine.platform,
        "gpu": machine.gpu,
        "compute_capabilities": list(targets_of(request)),
        "profile": asdict(request.profile),
        "onnx": onnx.name,
        "onnx_sha256": sha256_of(onnx),
        "plan_sha256": sha256_of(plan),
        "plan_bytes": plan.stat().st_size,
    }


def _settings(trt: ModuleType, config: Any, request: EngineRequest) -> dict[str, Any]:
    """What the builder was told, as the library itself gives it back."""
    return {
        "strongly_typed": True,
        "tf32": config.get_flag(trt.BuilderFlag.TF32),
        "builder_level": config.builder_optimization_level,
        "workspace_bytes": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "version_compatible": config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE),
        "hardware_compatible": request.options.hardware_compatible,
        "flags": [
            name for name, flag in trt.BuilderFlag.__members__.items() if config.flags >> int(flag) & 1
        ],
    }
