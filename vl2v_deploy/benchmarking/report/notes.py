"""How a report was made: what was measured how, on what, with which versions."""

from __future__ import annotations

from vl2v_deploy.benchmarking.judge.words import usd
from vl2v_deploy.benchmarking.schema import Report


def notes(report: Report) -> list[str]:
    """How it was measured: what a reader must know to judge the numbers."""
    measurements = report.measurements
    scenario, target = measurements.scenario, measurements.images.target
    intervals = sorted({d.interval for r in report.results.engines.values() for d in r.domains.values()})
    lines = [
        f"ID: source domains, seen in distillation; their mean. OOD: {target}, unseen.",
        "Latency: encoded image bytes to label, smallest batch, one stream. Images/s: at the best batch, "
        "threads and streams.",
        f"Every engine runs in its own process, warmed up until steady; they take turns in {scenario.rounds} "
        "rounds.",
    ]
    if intervals:  # something was measured
        lines.append(
            f"Intervals: 95 %, {', '.join(intervals)}; differences are paired, image by image. A percentile "
            "with fewer than ten samples beyond it is withheld (-)."
        )
    queries = measurements.provenance.teacher_queries
    if queries is not None:
        images = sum(len(domain.names) for domain in measurements.images.domains.values())
        lines.append(
            f"Teacher accuracy: {queries} of {images} images were sent to it; the embeddings of the others "
            "were already in the store."
        )
    if any(e.kind == "teacher" and e.status == "measured" for e in measurements.engines):
        lines.append(
            "The teacher runs in torch as it was published, not exported; in another runtime it may be "
            "faster and cheaper to host."
        )
    if report.results.economics.distillation:
        spent = usd(report.results.economics.distillation_usd)
        lines.append(f"Distillation: ${spent} = {report.results.economics.distillation}.")
    if any(result.usd_per_million is not None for result in report.results.engines.values()):
        lines.append(f"Prices: {report.prices.source}; utilisation {report.prices.utilisation:g}.")
    return lines


def facts(report: Report) -> list[tuple[str, str]]:
    """Device, versions, hashes, command: name and value."""
    measurements = report.measurements
    device = ", ".join(f"{key} {value}" for key, value in measurements.device.items())
    hashes = [
        (f"SHA-256 of {engine.file}", engine.sha256)
        for engine in measurements.engines
        if engine.file and engine.sha256
    ]
    return [
        ("Measured", measurements.created),
        ("Device", device),
        ("Versions", ", ".join(f"{name} {version}" for name, version in measurements.versions.items())),
        ("Recipe SHA-256", measurements.recipe_sha256),
        *dict.fromkeys(hashes),
        ("Command", measurements.command),
    ]
