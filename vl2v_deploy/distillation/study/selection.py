"""What settings may be chosen by, neither of which uses the target's labels, and the best of a sweep by each.

Source validation: accuracy on the sources' val images. Agreement: on how many images without labels, held out
from training, the student names the same class as the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from vl2v_deploy.distillation.study.comparison import ComparableRows, Row, mean_over_targets
from vl2v_deploy.distillation.study.results import Result
from vl2v_deploy.models.record_parts.data import HeldOutFacts
from vl2v_deploy.models.record_parts.measured import Agreement

Signal = Literal["source val", "agreement"]
SIGNALS: Mapping[Signal, Callable[[Result], float | None]] = {
    "source val": lambda run: run.source_val,
    "agreement": lambda run: run.agreement,
}


def signals_of(comparison: ComparableRows) -> tuple[Signal, ...]:
    """Those that at least one run of a table has."""
    runs = [run for row in comparison.rows for run in row.results]
    return tuple(name for name, of_run in SIGNALS.items() if any(of_run(run) is not None for run in runs))


def agreement_notes(comparison: ComparableRows) -> list[str]:
    """What a reader of the column agreement must know; nothing where no run has it."""
    measured = [found for row in comparison.rows for run in row.results for found in _measured(run)]
    if not measured:
        return []
    counts = [agreement.images for _, _, agreement in measured]
    most = f" to {max(counts)}" if max(counts) > min(counts) else ""
    notes = [
        "agreement: share of images without labels on which the student names the same class as the teacher; "
        f"held out from training, {min(counts)}{most} images. It needs no label, and favours settings that "
        "train on such images."
    ]
    images: dict[str, set[tuple[str, int]]] = {}
    for target, facts, agreement in measured:
        images.setdefault(target, set()).add((facts.fingerprint, agreement.images))
    if any(len(sets) > 1 for sets in images.values()):
        notes.append("agreement: runs of one target were measured on different images and do not compare.")
    if of_target := sorted({target for target, facts, _ in measured if facts.of_target}):
        notes.append(f"agreement: some of the images are of the target itself ({', '.join(of_target)}).")
    return notes


def _measured(run: Result) -> Iterator[tuple[str, HeldOutFacts, Agreement]]:
    """Target, images and agreement of a run that has them."""
    if run.record.data.held_out and run.record.agreement:
        yield run.target, run.record.data.held_out, run.record.agreement


def best_settings(comparison: ComparableRows) -> list[str]:
    """For each signal, a sentence that names the best setting: of each method that has several, else of all.

    A row that saw its target, or lacks a run, does not compete.
    """
    of_method: dict[str, list[Row]] = {}
    for row in comparison.rows:
        if row.competes:
            of_method.setdefault(row.method, []).append(row)
    several = [rows for rows in of_method.values() if len(rows) > 1]
    groups = several or [[row for rows in of_method.values() for row in rows]]
    signals, targets = signals_of(comparison), len(comparison.targets)
    lines = [line for rows in groups for signal in signals for line in _best(signal, rows, targets)]
    return [*lines, *agreement_notes(comparison)] if lines else []


def _best(signal: Signal, rows: Sequence[Row], targets: int) -> list[str]:
    """A sentence about the best of some rows; none where fewer than two have the signal of all their runs."""
    means: dict[str, float] = {}
    for row in rows:
        by_trial = row.by_trial(SIGNALS[signal])
        mean = mean_over_targets(by_trial, targets)
        if mean and not mean.mark and len(by_trial) == len(row.trials()):
            means[row.label] = round(mean.mean, 6)
    if len(means) < 2:
        return []
    top = max(means.values())
    best = " and ".join(label for label, mean in means.items() if mean == top)
    without = f"; not of {len(rows) - len(means)} that lack it" if len(means) < len(rows) else ""
    return [f"Best by {signal}: {best} ({100 * top:.1f} %, of {len(means)} settings{without})."]
