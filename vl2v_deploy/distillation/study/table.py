"""`vl2v-deploy table`: methods against target domains; table_formats writes it down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vl2v_deploy.distillation.study.comparison import (
    ComparableRows,
    Mean,
    Row,
    comparisons,
    differing_settings,
    mean_over_targets,
    means_of_targets,
)
from vl2v_deploy.distillation.study.latency import Latency
from vl2v_deploy.distillation.study.results import Result, load_results
from vl2v_deploy.distillation.study.selection import SIGNALS, Signal, agreement_notes, signals_of
from vl2v_deploy.recipe import NO_TARGET

MOST_OF_A_VALUE = 100  # characters of a setting in a note

MISSING = "-"


@dataclass(frozen=True)
class Table:
    """One table, in shares of 1; rendered in percent.

    columns: the targets, then what is averaged over them; all but the last, ECE, are better when higher
    cells:   of each row, in the order of the columns; None where nothing was measured
    best:    (row, column) of the best complete cells, rows that saw the target aside
    notes:   what a reader must know, one sentence each
    latency: milliseconds of each row by column, in the order of the rows; empty where none were given
    """

    title: str
    targets: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[Mean | None, ...], ...]
    best: frozenset[tuple[int, int]]
    notes: tuple[str, ...]
    latency: Mapping[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)


def tables(runs: Sequence[Path]) -> list[Table]:
    """The tables of finished runs, given as themselves, as folders that hold them, or as runs.jsonl.

    Raises RunError (see results.load_results and comparison.comparisons).
    """
    return [_table(comparison) for comparison in comparisons(load_results(runs))]


def with_latency(table: Table, latency: Latency) -> Table:
    """The table with a column of milliseconds for each precision, beside the accuracy."""
    rows = [[latency.of(run.recipe.student) for run in row.results] for row in table.rows]
    columns = {
        f"{precision} ms": tuple(_agreed([found.get(precision) for found in row]) for row in rows)
        for precision in latency.precisions
    }
    return replace(table, latency=columns, notes=(*table.notes, latency.note()))


def _agreed(values: Sequence[float | None]) -> float | None:
    """What all runs of a row have; a row's runs have one backbone, unless it was not swept."""
    return values[0] if len(set(values)) == 1 else None


def _table(comparison: ComparableRows) -> Table:
    targets = comparison.targets
    columns = ["OOD" if target == NO_TARGET else target for target in targets]
    if len(targets) > 1:
        columns += ["average", "worst"]
    signals = signals_of(comparison)
    columns += ["ID", *signals, "macro-F1", "ECE"]
    cells = tuple(_cells(row, targets, signals) for row in comparison.rows)
    best = frozenset(
        (row, place)
        for place in range(len(columns))
        for row in _best(
            comparison.rows, [of_row[place] for of_row in cells], lower=place == len(columns) - 1
        )
    )
    notes = _notes(comparison, cells)
    return Table(comparison.title, targets, tuple(columns), comparison.rows, cells, best, notes)


def _cells(row: Row, targets: Sequence[str], signals: Sequence[Signal]) -> tuple[Mean | None, ...]:
    accuracy = row.by_trial(lambda run: run.ood_accuracy)
    of_target = means_of_targets(accuracy, targets)
    summary = [mean_over_targets(accuracy, len(targets)), _worst(of_target)] if len(targets) > 1 else []
    others: list[Callable[[Result], float | None]] = [
        lambda run: run.id_accuracy,
        *(SIGNALS[signal] for signal in signals),
        lambda run: run.ood.macro_f1 if run.ood else None,
        lambda run: run.ood.ece if run.ood else None,
    ]
    return (*of_target, *summary, *(mean_over_targets(row.by_trial(v), len(targets)) for v in others))


def _worst(of_target: Sequence[Mean | None]) -> Mean | None:
    """The lowest of the row's target columns."""
    known = [value for value in of_target if value]
    if not known:
        return None
    lowest = min(known, key=lambda value: value.mean)
    mark = f"{len(known)}/{len(of_target)} targets" if len(known) < len(of_target) else ""
    return Mean(lowest.mean, lowest.se, lowest.trials, mark)


def _best(rows: Sequence[Row], cells: Sequence[Mean | None], *, lower: bool) -> list[int]:
    """The rows with the best cell as it is printed, but for rows that saw the target and incomplete means."""
    known = {
        number: round(100 * value.mean, 1)
        for number, (row, value) in enumerate(zip(rows, cells, strict=True))
        if value and not value.mark and row.competes
    }
    if len(known) < 2:
        return []
    top = (min if lower else max)(known.values())
    return [number for number, value in known.items() if value == top]


def _notes(comparison: ComparableRows, cells: Sequence[Sequence[Mean | None]]) -> tuple[str, ...]:
    runs = [run for row in comparison.rows for run in row.results]
    sources = {domain for run in runs for domain in run.domains if domain != run.target}
    unknown = sorted({why for run in runs if (why := run.record.ood_unknown)})
    with_target = [target for target in comparison.targets if target != NO_TARGET]
    notes = [
        *(f"OOD accuracy, macro-F1 and ECE: {why}." for why in unknown),
        *(
            [
                f"OOD columns ({', '.join(with_target)}): accuracy on the target domain; "
                f"{_images(runs, ood=True)}.",
            ]
            if with_target
            else []
        ),
        f"ID: mean accuracy over the source domains (of {', '.join(sorted(sources))}); "
        f"{_images(runs, ood=False)}.",
        "source val: accuracy on the sources' validation images; settings are chosen by it.",
        *agreement_notes(comparison),
        *(["macro-F1, ECE: of the target's images; ECE in 15 bins, lower is better."] if with_target else []),
        _trials_note(comparison),
        _selection_note(comparison),
    ]
    if adapted := [row.label for row in comparison.rows if row.adapted]:
        notes.append(f"Trained on images of the target, without labels: {'; '.join(adapted)}.")
    if len(comparison.targets) > 1:
        notes.append(
            f"average, ID, {', '.join(signals_of(comparison))}, macro-F1, ECE: mean over targets within a "
            "trial, then over trials; "
            "worst: the lowest target column."
        )
    for field, values in differing_settings(comparison).items():
        parts = (f"{_cut(value)} ({', '.join(labels)})" for value, labels in values.items())
        notes.append(f"The methods differ in {field}: {'; '.join(parts)}.")
    if any(value is None or value.mark for row in cells for value in row):
        notes.append(
            f"{MISSING}: not measured; [k/n ...]: a mean over fewer targets or trials than there are, never "
            "set in bold."
        )
    return tuple(notes)


def _cut(value: str) -> str:
    """A setting's value in a note; the records have the whole of it.

    >>> _cut("an oil painting of a {class}+" * 9)[80:]
    'class}+an oil pai...'
    """
    return value if len(value) <= MOST_OF_A_VALUE else f"{value[: MOST_OF_A_VALUE - 3]}..."


def _images(runs: Sequence[Result], *, ood: bool) -> str:
    """Which images a column was measured on, and how many of each domain."""
    counts: dict[str, list[int]] = {}
    for run in runs:
        for domain, measured in run.record.metrics.items():
            if (domain == run.target) == ood:
                counts.setdefault(measured.split, []).append(measured.images)
    parts = [
        f"split '{split}' ({min(images)}{f' to {max(images)}' if max(images) > min(images) else ''} images)"
        for split, images in sorted(counts.items())
    ]
    mixed = ": rows measured on different images do not compare" if len(parts) > 1 else ""
    return f"measured on {' and '.join(parts)}{mixed}"


def _selection_note(comparison: ComparableRows) -> str:
    labels: dict[str, list[str]] = {}
    for row in comparison.rows:
        labels.setdefault(row.selection, []).append(row.label)
    if len(labels) == 1:
        return f"Weights were selected on: {next(iter(labels))}."
    return (
        "Weights were selected on: " + "; ".join(f"{on} ({', '.join(of)})" for on, of in labels.items()) + "."
    )


def _trials_note(comparison: ComparableRows) -> str:
    counts = sorted({len(row.trials()) for row in comparison.rows})
    if counts == [1]:
        return "One trial: there is no standard error."
    return f"Mean ± standard error (sd / √n) over {' or '.join(map(str, counts))} trials."


def trials(table: Table, row: int) -> str:
    """How many trials a row's targets have: a number, or a range."""
    counts = [value.trials for value in table.cells[row][: len(table.targets)] if value] or [
        len(table.rows[row].trials())
    ]
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
