"""Warnings: where the numbers do not mean what a reader would expect."""

from __future__ import annotations

from datetime import datetime

from vl2v_deploy.benchmarking.judge.evidence import Evidence
from vl2v_deploy.benchmarking.judge.prices import STALE_DAYS, stale
from vl2v_deploy.benchmarking.judge.roofline import roofline_warnings
from vl2v_deploy.benchmarking.judge.statistics import FEWEST_ROUNDS
from vl2v_deploy.benchmarking.judge.words import joined, ms, percent
from vl2v_deploy.client.target_words import adapted_note, oracle_note

NOISY = 1.5  # mean over median; beyond it something else delayed a few iterations
# How far the reference engine's OOD accuracy may be from the manifest's on the same images.
RECORDED_TOLERANCE = 0.005


def caveats(evidence: Evidence) -> list[str]:
    """Noise, few samples, other data or teacher, old prices, what was not measured; one sentence each."""
    return [
        *_noise(evidence),
        *_data(evidence),
        *_provenance(evidence),
        *_recorded(evidence),
        *_prices(evidence),
        *_unmeasured(evidence),
        *evidence.measurements.notes,
    ]


def _noise(evidence: Evidence) -> list[str]:
    found = []
    noisy = [
        f"{name} ({ms(latency.mean_ms)} against {ms(latency.p50_ms)} ms)"
        for name, result in evidence.results.items()
        for latency in (result.latency,)
        if latency.p50_ms is not None and latency.mean_ms > NOISY * latency.p50_ms
    ]
    if noisy:
        found.append(
            f"Noisy machine: the mean latency is far above the median of {joined(noisy)}; close other "
            "programs and run again."
        )
    unsteady = [
        name
        for name, result in evidence.results.items()
        if any(not t.steady for t in result.timings if t.scope == "bytes_to_label")
    ]
    if unsteady:
        found.append(
            f"Not steady: the warm-up of {joined(unsteady)} reached its time limit before times were steady."
        )
    few = [name for name, result in evidence.results.items() if result.latency.p50_ms is None]
    if few:
        found.append(
            f"Few samples: too few for a median latency of {joined(few)}; the mean is shown instead. "
            "Measure for longer (--seconds)."
        )
    if evidence.measurements.scenario.rounds < FEWEST_ROUNDS:
        found.append(
            f"Few rounds: {evidence.measurements.scenario.rounds} say little about the machine's drift; "
            f"intervals of ratios need at least {FEWEST_ROUNDS}."
        )
    return found


def _data(evidence: Evidence) -> list[str]:
    found, images = [], evidence.measurements.images
    if any(len(domain.names) < domain.of for domain in images.domains.values()):
        most = max(len(domain.names) for domain in images.domains.values())
        found.append(f"Subsampled: accuracy is of at most {most} images per domain, not of all.")
    if images.skipped and not images.notices:  # the notices of a newer report count them
        found.append(f"{len(images.skipped)} images that cannot be used were skipped.")
    return [*found, *_seen(evidence), *images.notices]


def _seen(evidence: Evidence) -> list[str]:
    """In what way the run has seen the target, where it has."""
    run, target = evidence.measurements.bundle.run, evidence.measurements.images.target
    if unknown := evidence.measurements.images.ood_unknown:
        return [f"OOD accuracy is {unknown}. All figures are of held-out images like those of the training."]
    if run is None:
        return []
    unlabelled, words = run.data.unlabelled, run.target_words
    adapted = unlabelled if words.adapted else None
    found = [adapted_note(target, adapted.of_target, adapted.images)] if adapted else []
    return [*found, *([oracle_note(target)] if words.oracle else [])]


def _provenance(evidence: Evidence) -> list[str]:
    found, provenance = [], evidence.measurements.provenance
    if provenance.distilled_data not in (None, provenance.data):
        found.append(
            "Other data: these images or their split are not those of the distillation; the student may have "
            "been trained on some of them."
        )
    if provenance.teacher and provenance.distilled_teacher not in (None, provenance.teacher):
        found.append(
            f"Other teacher: {provenance.teacher} was measured, the student was distilled from "
            f"{provenance.distilled_teacher}."
        )
    return found


def _recorded(evidence: Evidence) -> list[str]:
    """The OOD accuracy in the manifest, where it is of the same images, against the reference engine's."""
    measurements = evidence.measurements
    target = measurements.images.target
    accuracy = measurements.bundle.recorded_accuracy
    recorded = accuracy.student.get(target) if accuracy else None
    images = measurements.images.domains[target]
    same = measurements.provenance.distilled_data == measurements.provenance.data
    if recorded is None or evidence.reference is None or not same or len(images.names) < images.of:
        return []
    measured = evidence.ood(evidence.reference).accuracy
    if abs(measured - recorded) <= RECORDED_TOLERANCE:
        return []
    return [
        f"Not as recorded: the bundle's manifest has {percent(recorded)} % {evidence.words.accuracy} on the "
        f"same images, {evidence.reference} reached {percent(measured)} %."
    ]


def _prices(evidence: Evidence) -> list[str]:
    dated = evidence.prices.dated
    if not stale(dated, datetime.fromisoformat(evidence.measurements.created).date()):
        return []
    return [f"Old prices: those of {dated} are more than {STALE_DAYS} days old ({evidence.prices.source})."]


def _unmeasured(evidence: Evidence) -> list[str]:
    """What was asked for and could not be measured."""
    found = []
    if evidence.measurements.scenario.roofline:
        for engine in evidence.engines.values():
            warnings = roofline_warnings(engine, evidence.measurements.machine)
            found += [f"Roofline: {warning}." for warning in warnings]
    reasons = {engine.energy.reason for engine in evidence.engines.values() if engine.energy}
    for reason in sorted(reason for reason in reasons if reason):
        found.append(f"No energy: {reason}.")
    for name, engine in evidence.engines.items():
        metered = engine.energy and engine.energy.joules is not None
        if metered and evidence.results[name].joules_per_image is None:
            found.append(f"No energy of {name}: the meter showed no more than when idle.")
    return found
