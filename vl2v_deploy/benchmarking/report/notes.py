"""How a report was made: what was measured how, on what, with which versions."""

from __future__ import annotations

from vl2v_deploy.benchmarking.cascade.choose import SHARE_OF_GAIN
from vl2v_deploy.benchmarking.judge.words import ms, percent, upper_first, usd
from vl2v_deploy.benchmarking.schema import Report


def notes(report: Report) -> list[str]:
    """How it was measured: what a reader must know to judge the numbers."""
    measurements = report.measurements
    scenario, target = measurements.scenario, measurements.images.target
    words = measurements.target_words
    seen = "unseen" if words.is_unseen else f"which is no unseen domain here ({words.role})"
    kinds = (
        f"ID: source domains, seen in distillation; their mean. {upper_first(words.short)}: {target}, {seen}."
    )
    if unknown := measurements.images.ood_unknown:
        kinds = f"ID: held-out images of {target}, which was trained on. OOD: {unknown}."
    intervals = sorted({d.interval for r in report.results.engines.values() for d in r.domains.values()})
    lines = [
        kinds,
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
        shown = measurements.images
        images = sum(len(of.names) for part in (shown.domains, shown.validation) for of in part.values())
        lines.append(
            f"Teacher accuracy: {queries} of {images} images were sent to it; the embeddings of the others "
            "were already in the store."
        )
    if any(e.kind == "teacher" and e.status == "measured" for e in measurements.engines):
        lines.append(
            "The teacher runs in torch as it was published, not exported; in another runtime it may be "
            "faster and cheaper to host."
        )
    lines += _cascade_notes(report)
    if report.results.economics.distillation:
        spent = usd(report.results.economics.distillation_usd)
        lines.append(f"Distillation: ${spent} = {report.results.economics.distillation}.")
    if any(result.usd_per_million is not None for result in report.results.engines.values()):
        lines.append(f"Prices: {report.prices.source}; utilisation {report.prices.utilisation:g}.")
    return lines


def _cascade_notes(report: Report) -> list[str]:
    result = report.results.cascade
    if result is None:
        return []
    lines = [
        f"Cascade: of {result.engine}. When the teacher is asked, its temperature "
        f"({result.policy.teacher_temperature:.3g}) and how the answers are joined are chosen on "
        f"{result.images} source validation images, by the mean over the source domains; the target has no "
        f"say in it. Without a budget, the threshold is the smallest share that gains "
        f"{percent(SHARE_OF_GAIN)} % of what asking gains there at best."
    ]
    short = report.measurements.target_words.short
    for words, found in (("ID", result.latency_in_domain), (short, result.latency_ood)):
        if found is not None:
            lines.append(
                f"Cascade latency, {words} ({percent(found.share)} % sent): p50 {ms(found.p50_ms)} ms, p99 "
                f"{ms(found.p99_ms)} ms, with the teacher's {found.teacher}; asked after the student."
            )
    if result.teacher_priced_as == "hosted":
        lines.append("Cascade cost: the teacher is priced as hosted here, as no price of its API was given.")
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
