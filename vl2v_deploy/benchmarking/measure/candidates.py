"""Which engines a scenario means, of what this bundle holds, and which of them can run on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, assert_never

from vl2v_deploy.benchmarking.engine_names import ALL, FILES, TEACHER, EngineName, Runtime, parse_engine
from vl2v_deploy.benchmarking.measure.subject import Subject, student_subject
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.client import Bundle
from vl2v_deploy.client.providers import SHORT_NAMES, problem_with
from vl2v_deploy.errors import BenchmarkError, MissingExtra, RunError, VL2VError

FLAVOURS: dict[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def find_candidates(bundle: Bundle, scenario: Scenario, run: Path | None, runs: Path) -> list[Subject]:
    """Every engine of the student that the scenario means, each once, in its order.

    run:  the run directory that the bundle was made from; None = looked for under `runs`
    runs: folder of run directories

    Raises BenchmarkError for an engine asked for by name that cannot be measured here.
    """
    found: dict[str, Subject] = {}
    for text in scenario.engines:
        if text == TEACHER:
            continue
        named = text not in (FILES, ALL)
        for name in [parse_engine(text, scenario.device)] if named else _names(text, bundle, scenario):
            subject = _candidate(name, bundle, run, runs)
            if named and subject.found.reason:
                raise BenchmarkError(f"engines: {name}: {subject.found.reason}")
            found[str(name)] = subject
    return list(found.values())


def _names(text: str, bundle: Bundle, scenario: Scenario) -> Iterator[EngineName]:
    """The engines that 'files' or 'all' stands for."""
    files = bundle.precisions
    if text == FILES:
        yield from (parse_engine(f"onnxruntime:{p}", scenario.device) for p in files)
        return
    yield parse_engine("torch:fp32", scenario.device)
    yield from (EngineName("onnxruntime", precision, "cpu") for precision in files)
    yield from (EngineName("openvino", precision, "cpu") for precision in files)
    # int8 for the CPU has zero points, which TensorRT refuses, and CUDA has no kernels for either int8.
    yield from (EngineName("onnxruntime", p, "cuda") for p in files if not p.startswith("int8"))
    yield from (EngineName("onnxruntime", p, "tensorrt") for p in files if p != "int8")
    for runtime in FLAVOURS:
        plans = _plans(bundle, runtime)
        yield from (EngineName(runtime, precision, "cuda") for precision in plans or ("fp16",))


def _candidate(name: EngineName, bundle: Bundle, run: Path | None, runs: Path) -> Subject:
    try:
        match name.runtime:
            case "torch":
                return student_subject(name, None, _torch_settings(name, bundle, run, runs))
            case "onnxruntime":
                _require_execution_provider(name.provider)
                settings: dict[str, Any] = {"bundle": str(bundle.path.resolve())}
                settings |= {"precision": name.precision, "provider": name.provider}
                return student_subject(name, bundle.onnx_of(name.precision), settings)
            case "openvino":
                _require_installed("openvino", "openvino")
                file = bundle.onnx_of(name.precision).resolve()
                return student_subject(name, file, {"file": str(file), **_pixels(bundle)})
            case "tensorrt" | "tensorrt-rtx":
                plan = _runnable_plan(bundle, name)
                return student_subject(name, plan, {"plan": str(plan.resolve()), **_pixels(bundle)})
            case other:
                assert_never(other)
    except VL2VError as error:
        return student_subject(name, None, {}, unavailable=str(error).removeprefix(f"{bundle.source}: "))


def _require_installed(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(module, extra)


def _require_execution_provider(provider: str) -> None:
    _require_installed("onnxruntime", "cpu")
    if problem := problem_with(SHORT_NAMES[provider]):
        raise BenchmarkError(f"{SHORT_NAMES[provider]}: {problem}")


def _pixels(bundle: Bundle) -> dict[str, Any]:
    """What an engine must know to make pixels as the client does."""
    return {"image_size_px": bundle.image_size_px, "draft": bundle.draft}


def _torch_settings(name: EngineName, bundle: Bundle, run: Path | None, runs: Path) -> dict[str, Any]:
    _require_installed("torch", "train")
    from vl2v_deploy.models.device import require_device

    require_device(name.provider)
    if bundle.manifest.relabelled:
        raise BenchmarkError("the bundle was relabelled: its run's student knows other classes")
    return {
        "run": str((run or _find_run(bundle, runs)).resolve()),
        "bundle": str(bundle.path.resolve()),
        "temperature": bundle.manifest.confidence.temperature,
        "device": name.provider,
        **_pixels(bundle),
    }


def _find_run(bundle: Bundle, runs: Path) -> Path:
    """The newest finished run under `runs` whose record is the bundle's; BenchmarkError without one."""
    from vl2v_deploy.models.record import finished_runs, read_record

    facts = bundle.manifest.run
    if facts is None:
        raise BenchmarkError(f"{bundle.name}: says nothing of its run; name the run's directory with --run")
    wanted = (facts.recipe_sha256, facts.seed, facts.data.fingerprint)
    for run in reversed(finished_runs(runs)):
        try:
            record = read_record(run)
        except RunError:  # a damaged run is not the one, and others may be whole
            continue
        if (record.recipe_sha256, record.seed, record.data.fingerprint) == wanted:
            return run
    raise BenchmarkError(
        f"the run that the bundle was made from is not under {runs}; name its directory with --run"
    )


def _plans(bundle: Bundle, runtime: Runtime) -> dict[str, list[str]]:
    """Names of the bundle's engines of a runtime, by precision."""
    by_precision: dict[str, list[str]] = {}
    for name, passport in bundle.manifest.engines.items():
        if passport.flavour == FLAVOURS[runtime]:
            by_precision.setdefault(passport.precision, []).append(name)
    return by_precision


def _runnable_plan(bundle: Bundle, name: EngineName) -> Path:
    """The bundle's engine that runs here; where none does, the reason of the first is raised."""
    plans: Sequence[str] = _plans(bundle, name.runtime).get(name.precision, ())
    if not plans:
        option = "--trt" if name.runtime == "tensorrt" else "--rtx"
        raise BenchmarkError(
            f"the bundle holds no such engine; build one with: vl2v-deploy export RUN --precision "
            f"{name.precision} {option}"
        )
    _require_installed("torch", "train")
    from vl2v_deploy.exporting.tensorrt.engines import not_runnable_here

    reasons = [not_runnable_here(bundle.path / plan) for plan in plans]
    for plan, reason in zip(plans, reasons, strict=True):
        if reason is None:
            return bundle.path / plan
    raise BenchmarkError(str(reasons[0]))
