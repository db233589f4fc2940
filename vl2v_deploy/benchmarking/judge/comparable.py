"""Whether two reports can be compared: same device, same scenario, same images."""

from __future__ import annotations

from typing import Any

from vl2v_deploy.benchmarking.engine_names import ALL, FILES, TEACHER, EngineName, parse_engine
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import EngineMeasurement, Report
from vl2v_deploy.errors import BenchmarkError

# Updates of these change what runs, not what it runs on: listed as versions.
SOFTWARE_OF_DEVICE = ("system", "driver")
# The requested engines may differ: those that both scenarios ask for are compared.
FREE_OF_SCENARIO = ("engines", "teacher", "timeout_s", "buy_validation")


def require_comparable(before: Report, after: Report) -> None:
    """Raise BenchmarkError with the first thing that differs, unless the reports can be compared."""
    _require_same("device", _hardware(before), _hardware(after), "measure both on one machine")
    ours, theirs = (report.measurements.scenario.model_dump(mode="json") for report in (before, after))
    for field in FREE_OF_SCENARIO:
        ours.pop(field), theirs.pop(field)
    _require_same("scenario", ours, theirs, "measure both with one scenario file")
    old, new = before.measurements, after.measurements
    if old.bundle.classes != new.bundle.classes:
        raise _differs("classes", ", ".join(old.bundle.classes), ", ".join(new.bundle.classes), _SAME_DATA)
    if old.images.target != new.images.target:
        raise _differs("images.target", old.images.target, new.images.target, _SAME_DATA)
    domains = (sorted(old.images.domains), sorted(new.images.domains))
    if domains[0] != domains[1]:
        raise _differs("images", ", ".join(domains[0]), ", ".join(domains[1]), _SAME_DATA)
    for name, images in old.images.domains.items():
        others = new.images.domains[name]
        if (images.names, images.labels) != (others.names, others.labels):
            shared = len(set(images.names) & set(others.names))
            raise _differs(
                f"images.{name}",
                f"{len(images.names)} images",
                f"{len(others.names)} images, {shared} of them the same",
                _SAME_DATA,
            )


_SAME_DATA = "accuracy can be paired only on the same images; measure both on the same data"


def is_asked_for(engine: EngineMeasurement, scenario: Scenario) -> bool:
    """Whether a scenario asks for this engine: by name, as the teacher, or as one of 'files' or 'all'."""
    asked = set(scenario.engines)
    if engine.kind == "teacher":
        return scenario.teacher or TEACHER in asked
    if ALL in asked:
        return True
    names = {str(parse_engine(text, scenario.device)) for text in asked - {FILES, TEACHER}}
    if FILES in asked:
        names.add(str(EngineName("onnxruntime", engine.precision, scenario.device)))
    return engine.name in names


def changed_versions(before: Report, after: Report) -> dict[str, tuple[str, str]]:
    """Versions that differ, of packages, the system and the workers' packages: name to (before, after)."""
    old, new = _software(before), _software(after)
    return {
        name: (old.get(name, "none"), new.get(name, "none"))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _hardware(report: Report) -> dict[str, Any]:
    return {k: v for k, v in report.measurements.device.items() if k not in SOFTWARE_OF_DEVICE}


def _software(report: Report) -> dict[str, str]:
    measurements = report.measurements
    found = dict(measurements.versions)
    for engine in measurements.engines:
        for process in engine.processes:
            for name, version in process.versions.items():
                # A worker whose version differs from the others'.
                if measurements.versions.get(name) != version:
                    found[f"{name} of {engine.name}"] = version
    found |= {k: str(v) for k, v in measurements.device.items() if k in SOFTWARE_OF_DEVICE}
    return found


def _require_same(what: str, ours: dict[str, Any], theirs: dict[str, Any], remedy: str) -> None:
    for field in sorted(ours.keys() | theirs.keys()):
        if ours.get(field) != theirs.get(field):
            raise _differs(f"{what}.{field}", ours.get(field), theirs.get(field), remedy)


def _differs(field: str, before: object, after: object, remedy: str) -> BenchmarkError:
    return BenchmarkError(f"{field}: expected the same in both reports, got {before} and {after}; {remedy}")
