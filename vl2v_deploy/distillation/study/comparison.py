"""Finished runs side by side, averaged as DomainBed averages them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from vl2v_deploy.distillation.study.results import Result, Seeds, shown
from vl2v_deploy.errors import RunError
from vl2v_deploy.models.record import ORACLE
from vl2v_deploy.recipe import METHODS

# Not a field of a recipe: rows that differ in nothing else differ in what the store held when they began.
EMBEDDED = "images with embeddings"


@dataclass(frozen=True)
class Row:
    """The runs of one method with one setting: targets x trials.

    name:    the recipe's label, or the method's
    setting: the fields, with their values, in which the method's rows differ from each other; then EMBEDDED,
             where nothing else tells two of them apart
    adapted: whether its runs were trained on images of their target, without labels
    """

    method: str
    name: str
    setting: tuple[tuple[str, Any], ...]
    selection: str
    results: tuple[Result, ...]
    adapted: bool = False

    @property
    def is_oracle(self) -> bool:
        return self.selection == ORACLE

    @property
    def competes(self) -> bool:
        """Whether it kept its target unseen: neither selected nor trained on it."""
        return not self.is_oracle and not self.adapted

    @property
    def label(self) -> str:
        setting = ", ".join(f"{field}={shown(value)}" for field, value in self.setting)
        marks = " (oracle)" if self.is_oracle else ""
        marks += " (adapted to the target)" if self.adapted else ""
        return self.name + (f", {setting}" if setting else "") + marks

    @property
    def embedded(self) -> float | None:
        """Training images with a teacher embedding, mean over its runs; None where a run does not say."""
        counts = [_embedded(result) for result in self.results]
        known = [count for count in counts if count is not None]
        return fmean(known) if len(known) == len(counts) else None

    def trials(self) -> list[Seeds]:
        return sorted({result.seeds for result in self.results})

    def by_trial(self, value: Callable[[Result], float | None]) -> dict[Seeds, dict[str, float]]:
        """For each trial, the value of each target that has one."""
        found: dict[Seeds, dict[str, float]] = {}
        for result in self.results:
            number = value(result)
            if number is not None:
                found.setdefault(result.seeds, {})[result.target] = number
        return found


@dataclass(frozen=True)
class ComparableRows:
    """The rows of one table: of the same images, classes, splits and teacher.

    targets: of all rows together
    """

    title: str
    targets: tuple[str, ...]
    classes: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Mean:
    """A mean over trials.

    se:   standard error, sd / sqrt(n); None of one trial
    mark: what is missing from the mean, such as '2/3 targets'; empty when nothing is
    """

    mean: float
    se: float | None
    trials: int
    mark: str = ""


def mean_of(values: Sequence[float], mark: str = "") -> Mean:
    """Mean and standard error of values, one per trial.

    >>> mean_of([1.0, 2.0, 3.0]).se == 1 / 3**0.5
    True
    """
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(fmean(values), error, len(values), mark)


def means_of_targets(
    by_trial: Mapping[Seeds, Mapping[str, float]], targets: Sequence[str]
) -> list[Mean | None]:
    """Mean over trials of each target; None for a target that no trial has."""
    of_target = [[found[target] for found in by_trial.values() if target in found] for target in targets]
    return [mean_of(values) if values else None for values in of_target]


def mean_over_targets(by_trial: Mapping[Seeds, Mapping[str, float]], targets: int) -> Mean | None:
    """Mean over targets within each trial, then over trials; None when no trial has all the row's targets.

    Trials that lack a target which the row has elsewhere are left out, and the mark says so: a mean over
    other targets is another quantity.

    targets: how many the whole table has; a row with fewer is marked
    """
    own = {target for values in by_trial.values() for target in values}
    whole = [fmean(values.values()) for values in by_trial.values() if values.keys() == own]
    if not whole:
        return None
    marks = [f"{len(own)}/{targets} targets"] if len(own) < targets else []
    if len(whole) < len(by_trial):
        marks.append(f"{len(whole)}/{len(by_trial)} trials")
    return mean_of(whole, ", ".join(marks))


def comparisons(results: Sequence[Result]) -> list[ComparableRows]:
    """The tables that the runs make: one of each data set and teacher.

    Raises RunError when two runs belong to the same cell and trial of a table.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in _without_moot_setting(results):
        groups.setdefault(_comparable(result), []).append(result)
    titles = [f"{key[0]}, teacher {key[1]}" for key in groups]
    compared = []
    for number, (title, members) in enumerate(zip(titles, groups.values(), strict=True)):
        if titles.count(title) > 1:
            title += f" [{titles[: number + 1].count(title)}]"
        targets = tuple(sorted({result.target for result in members}))
        classes = members[0].record.classes
        compared.append(ComparableRows(title, targets, classes, _rows(members)))
    return compared


def differing_settings(comparison: ComparableRows) -> dict[str, dict[str, list[str]]]:
    """Fields in which the *methods* differ, as {field: {value: names of rows}}.

    Fields in which rows of one method differ are in the rows' labels already, and left out.
    """
    swept = {field for row in comparison.rows for field, _ in row.setting}
    found: dict[str, dict[str, list[str]]] = {}
    for row in comparison.rows:
        method = METHODS[row.method]
        for field, value in row.results[0].settings.items():
            if field not in swept and not field.startswith(method.unused):
                names = found.setdefault(field, {}).setdefault(shown(value), [])
                if row.name not in names:
                    names.append(row.name)
    return {field: values for field, values in found.items() if len(values) > 1}


def _without_moot_setting(results: Sequence[Result]) -> list[Result]:
    """The runs, marked where what their recipes say of duplicates changes nothing: where there are none.

    Older records do not say whether there were copies: those of the same data, by name, classes and number of
    images, say it for them.
    """
    marked = [replace(result, no_copies=True) for result in results]
    found: dict[tuple[str, ...], set[bool]] = {}
    for result in marked:
        if copies := result.record.data.copies:
            found.setdefault(_comparable(result), set()).add(copies.images > 0)
    return [
        without if found.get(_comparable(without)) == {False} else result
        for result, without in zip(results, marked, strict=True)
    ]


def _comparable(result: Result) -> tuple[str, ...]:
    """What the runs of a table must have in common; data by its name and content, not its path."""
    recipe, record = result.recipe, result.record
    moot = {"duplicates"} if result.no_copies else set()
    split = recipe.data.split.model_dump(mode="json", exclude={"seed", "groups"} | moot)
    split["groups"] = shown(recipe.data.split.groups)
    data = shown(recipe.data.root)
    teacher = " ".join(map(shown, recipe.teacher.names))
    # One name can have had several weights; a teacher fed the student's tensor is still the same teacher.
    weights = record.teacher.identity.partition("+faithful(")[0]
    images = {domain: sum(parts.values()) for domain, parts in sorted(record.data.images.items())}
    classes, domains = repr(record.classes), repr(result.domains)
    return data, teacher, weights, repr(images), classes, domains, repr(split)


def _rows(results: Sequence[Result]) -> tuple[Row, ...]:
    rows: dict[tuple[Any, ...], list[Result]] = {}
    swept = {name: _swept([r for r in results if _named(r) == name]) for name in map(_named, results)}
    for result in results:
        setting = tuple((field, result.settings[field]) for field in swept[_named(result)])
        key = (*_named(result), repr(setting), result.record.selection, result.record.adapted)
        rows.setdefault(key, []).append(result)
    made = []
    for members in rows.values():
        levels = _levels(members)
        for level in levels:
            _require_distinct(level)
            setting = tuple((field, level[0].settings[field]) for field in swept[_named(level[0])])
            row = Row(
                level[0].method,
                level[0].name,
                setting,
                level[0].record.selection,
                tuple(sorted(level, key=lambda r: (r.target, r.seeds))),
                level[0].record.adapted,
            )
            if len(levels) > 1 and row.embedded is not None:
                row = replace(row, setting=(*setting, (EMBEDDED, round(row.embedded))))
            made.append(row)
    order = list(METHODS)

    def place(row: Row) -> tuple[Any, ...]:
        named = row.name != METHODS[row.method].label
        return order.index(row.method), not row.competes, named, row.name, _sort_key(row)

    return tuple(sorted(made, key=place))


def _named(result: Result) -> tuple[str, str]:
    """Rows of one name differ in settings; of other names, in whatever their recipes say."""
    return result.method, result.name


def _levels(results: Sequence[Result]) -> list[list[Result]]:
    """The runs of one setting, apart by how many training images had an embedding.

    That number varies with target and seed too: runs of the same target and seed are told apart by it, and
    those with the fewest images of each target and seed are together, and so on.
    """
    of_cell: dict[tuple[str, Seeds], set[int]] = {}
    for result in results:
        of_cell.setdefault((result.target, result.seeds), set()).add(_embedded(result) or 0)
    levels: dict[int, list[Result]] = {}
    for result in results:
        rank = sorted(of_cell[result.target, result.seeds]).index(_embedded(result) or 0)
        levels.setdefault(rank, []).append(result)
    return [levels[rank] for rank in sorted(levels)]


def _embedded(result: Result) -> int | None:
    training = result.record.teacher.training
    return None if training is None else training.embedded


def _sort_key(row: Row) -> list[tuple[bool, float, str]]:
    """Numbers by size, before all else by its text."""
    return [
        (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, shown(value))
        for _, value in row.setting
    ]


def _swept(results: Sequence[Result]) -> list[str]:
    """The fields in which the runs of one name differ."""
    fields = results[0].settings if results else {}
    return [field for field in fields if len({repr(r.settings.get(field)) for r in results}) > 1]


def _require_distinct(results: Sequence[Result]) -> None:
    seen: dict[tuple[str, Seeds], Result] = {}
    for result in results:
        other = seen.setdefault((result.target, result.seeds), result)
        if other is not result:
            raise RunError(
                f"{other.path} and {result.path}: two runs of {result.name} on target "
                f"{result.target!r} with seed {result.recipe.seed} and the same settings; name only one"
            )
