"""TensorRT engines from the bundle's ONNX files, strongly typed: precision lives in the graph.

One path for two libraries with the same Python API: `tensorrt` builds on the GPU that will run the engine,
`tensorrt_rtx` for chosen compute capabilities on any machine. library.py says where else they differ.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.progress import Progress

from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.passport import PASSPORT_FORMAT, HardwareCompatible, Passport, Profile, TimingCache
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.options import EngineRequest
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
from vl2v_deploy.exporting.tensorrt.passport import TITLES, write_passport
from vl2v_deploy.exporting.tensorrt.progress import progress_monitor
from vl2v_deploy.exporting.tensorrt.proof import precision_proof
from vl2v_deploy.exporting.tensorrt.timing_cache import (
    attach_timing_cache,
    save_timing_cache,
    timing_cache_path,
)

_LEVELS: dict[HardwareCompatible, tuple[str, float]] = {
    "ampere-plus": ("AMPERE_PLUS", 8.0),
    "same-capability": ("SAME_COMPUTE_CAPABILITY", 7.5),
}
_NOT_RUN = "built, not run: check its answers on a GPU of its compute capability"


def require_buildable(request: EngineRequest) -> ModuleType:
    """The library that can build this engine here.

    Raises MissingExtra when it is not installed; ExportError when it needs a GPU and none is here, or does
    not build for a compute capability that was asked for.
    """
    trt = load_library(request.flavour)
    if request.flavour == "tensorrt":
        _require_gpu_for(request)
        return trt
    known = known_capabilities(trt)
    if not request.compute_capabilities and not torch.cuda.is_available():
        raise ExportError(
            "--rtx: no GPU here to build for; name the target's --compute-capability, one or more of "
            + ", ".join(known)
        )
    for capability in targets_of(request):
        if capability not in known:
            raise ExportError(
                f"--compute-capability {capability}: TensorRT-RTX {trt.__version__} builds for "
                f"{', '.join(known)}"
            )
    return trt


def _require_gpu_for(request: EngineRequest) -> None:
    if not torch.cuda.is_available():
        raise ExportError(
            "--trt: TensorRT builds an engine on the GPU that will run it, and torch sees none here"
            + WITHOUT_GPU
        )
    _, lowest = _LEVELS.get(request.hardware_compatible, ("", 0.0))
    if float(capability_here()) < lowest:
        raise ExportError(
            f"--hardware-compatible {request.hardware_compatible}: is built on GPUs of compute capability "
            f"{lowest} or later; the one here has {capability_here()}"
        )


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
) -> Passport:
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
    times, timing_cache = _attach_timing_cache(config, request)
    started = time.perf_counter()
    serialized = _build(trt, builder, network, config, progress)
    seconds = time.perf_counter() - started
    if serialized is None:
        raise ExportError(f"{onnx}: {TITLES[request.flavour]} cannot build it: {logger_of(trt).reasons()}")
    if times is not None:
        timing_cache = replace(timing_cache, saved_bytes=save_timing_cache(config, times))
    plan.write_bytes(memoryview(serialized))
    passport = replace(
        _origin(trt, config, request, onnx, plan),
        precision=precision,
        precision_proof=precision_proof(trt, plan, request.profile.opt, mac_shares),
        timing_cache=timing_cache,
        build_seconds=round(seconds, 3),
    )
    write_passport(plan, passport)
    return passport


def _origin(trt: ModuleType, config: Any, request: EngineRequest, onnx: Path, plan: Path) -> Passport:
    """What the engine was built from, by what and for which GPUs; the builder's settings as it has them."""
    machine = here(request.flavour)
    return Passport(
        format=PASSPORT_FORMAT,
        plan=plan.name,
        flavour=request.flavour,
        version=trt.__version__,
        cuda=torch.version.cuda,
        driver=driver_version(),
        platform=machine.platform,
        gpu=machine.gpu,
        compute_capabilities=targets_of(request),
        precision="fp32",
        profile=request.profile,
        onnx=onnx.name,
        onnx_sha256=sha256_of(onnx),
        plan_sha256=sha256_of(plan),
        plan_bytes=plan.stat().st_size,
        tf32=config.get_flag(trt.BuilderFlag.TF32),
        builder_level=config.builder_optimization_level,
        workspace_bytes=config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        version_compatible=config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE),
        hardware_compatible=request.hardware_compatible,
        flags=tuple(
            name for name, flag in trt.BuilderFlag.__members__.items() if config.flags >> int(flag) & 1
        ),
        parity_note=_NOT_RUN,
    )


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
        raise ExportError(f"{onnx}: {TITLES[request.flavour]} cannot parse it: {errors}")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    found = [(image.name, image.dtype.name.lower(), tuple(image.shape)) for image in inputs]
    match found:
        case [("images", "uint8", (-1, _, _, 3))]:
            return network
    raise ExportError(
        f"{onnx}: expected one input, images: uint8 (batch, S, S, 3) with a dynamic batch (-1), got "
        + (", ".join(f"{name}: {dtype} {shape}" for name, dtype, shape in found) or "none")
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
    for flag, wanted in (("TF32", request.tf32), ("VERSION_COMPATIBLE", request.version_compatible)):
        (config.set_flag if wanted else config.clear_flag)(getattr(trt.BuilderFlag, flag))
    # Layer types can be read out of the engine only when it was built with them inside.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.builder_level is not None:
        config.builder_optimization_level = request.builder_level
    if request.hardware_compatible != "none":
        level, _ = _LEVELS[request.hardware_compatible]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if request.workspace_bytes is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, request.workspace_bytes)
        if (taken := config.get_memory_pool_limit(pool)) != request.workspace_bytes:
            title = TITLES[request.flavour]
            raise ExportError(
                f"--workspace-mib: {title} refuses {request.workspace_bytes} bytes, and keeps to {taken}"
            )
    if request.flavour == "tensorrt_rtx":
        targets = targets_of(request)
        config.num_compute_capabilities = len(targets)
        for index, capability in enumerate(targets):
            target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
            config.set_compute_capability(target, index)


def _attach_timing_cache(config: Any, request: EngineRequest) -> tuple[Path | None, TimingCache]:
    """The file that this build's kernel times go to, if any, and what the passport says of it."""
    if request.flavour == "tensorrt_rtx":
        return None, TimingCache(None, "TensorRT-RTX has none: it measures nothing while building")
    if request.timing_cache is False:
        return None, TimingCache(None, "not asked for")
    path = timing_cache_path(here(request.flavour))
    return path, attach_timing_cache(config, path)
