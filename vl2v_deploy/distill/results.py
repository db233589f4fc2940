"""Finished runs, read for tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from vl2v_deploy.errors import RunError
from vl2v_deploy.models.run_directory import RECIPE, RECORD, finished_runs, read_record
from vl2v_deploy.recipe import Method, Recipe, load_recipe

# What may differ between the runs of one row: cell and trial, and what changes no result.
_NOT_A_SETTING = {
    *("method", "per_method", "trials", "seed", "device", "checkpoint_every_s"),
    *("data.root", "data.target", "data.classes", "data.split.seed", "teacher.batch_size"),
    *("distill.workers", "distill.image_cache_gb", "distill.compile"),
}

Trial = tuple[int, int]  # seeds of the run and of its split


@dataclass(frozen=True)
class Result:
    """One finished run.

    record: the whole of run.json
    """

    path: Path
    recipe: Recipe
    record: dict[str, Any]

    @property
    def method(self) -> Method:
        return cast(Method, self.record["method"])

    @property
    def target(self) -> str:
        return cast(str, self.record["accuracy"]["target"])

    @property
    def trial(self) -> Trial:
        return self.recipe.seed, self.recipe.data.split.seed

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(sorted(self.record["metrics"]))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every field of the recipe that can make a difference, by its dotted name."""
        flat = _flattened(self.recipe.model_dump(mode="json"))
        return {field: value for field, value in flat.items() if field not in _NOT_A_SETTING}

    def ood(self, metric: str) -> float | None:
        """accuracy, macro_f1 or ece on the target; None where the run has none."""
        return self._metric(self.target, metric)

    def id_accuracy(self) -> float | None:
        """Mean accuracy over the source domains; None unless all of them have one."""
        shares = [self._metric(domain, "accuracy") for domain in self.domains if domain != self.target]
        known = [share for share in shares if share is not None]
        return fmean(known) if known and len(known) == len(shares) else None

    def source_val(self) -> float | None:
        """Accuracy on the sources' val split."""
        return cast("float | None", self.record["accuracy"].get("student_source_val"))

    def class_accuracy(self, name: str) -> float | None:
        """Of one class on the target; None where it has no image of the class."""
        per_class = self.record["metrics"].get(self.target, {}).get("per_class", {})
        return cast("float | None", per_class.get(name, {}).get("accuracy"))

    def _metric(self, domain: str, metric: str) -> float | None:
        return cast("float | None", self.record["metrics"].get(domain, {}).get(metric))


def load_results(paths: Iterable[Path]) -> list[Result]:
    """The finished runs that `paths` are or hold at any depth, each once.

    Raises RunError when a path holds none, or a run was made by another version.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        inside = [] if (path / RECORD).is_file() else finished_runs(path)
        for run in inside or [path]:
            folders.setdefault(run.resolve(), run)
    return [_load(run) for run in folders.values()]


def _load(run: Path) -> Result:
    record = read_record(run)
    if record.get("format") != 2 or "metrics" not in record:
        raise RunError(
            f"{run / RECORD}: expected format 2, got {record.get('format')!r}: made by another version of "
            "vl2v-deploy; distill it again"
        )
    return Result(run, load_recipe(run / RECIPE), record)


def shown(value: Any) -> str:
    """A setting's value for people; of a path only the name."""
    if isinstance(value, str):
        return Path(value).name if "/" in value else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        # class_names and per_class are mappings by class: one setting, not one a class
        if isinstance(value, dict) and key not in ("class_names", "per_class"):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
