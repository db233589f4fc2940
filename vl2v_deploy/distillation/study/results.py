"""Finished runs, read for tables and figures: from their folders, or from the records that a table leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from vl2v_deploy.errors import RunError
from vl2v_deploy.models.run_directory import RECIPE, RECORD, finished_runs, read_record
from vl2v_deploy.recipe import Recipe, load_recipe, recipe_from_tree

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

    path:   its folder, or the file and line of its record
    record: the whole of run.json; as `record_line` leaves it where it comes from a line
    """

    path: Path
    recipe: Recipe
    record: dict[str, Any]

    @property
    def method(self) -> str:
        return cast(str, self.record["method"])

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

    paths: folders, or files with a run a line (see `record_line`)

    Raises RunError when a path holds none, a line is no record, or a run was made by another version.
    """
    found: dict[Path, Result] = {}
    for path in paths:
        if path.is_file():
            found |= {result.path.resolve(): result for result in _load_records(path)}
            continue
        inside = [] if (path / RECORD).is_file() else finished_runs(path)
        for run in inside or [path]:
            if run.resolve() not in found:
                found[run.resolve()] = _load(run)
    return list(found.values())


def record_line(result: Result) -> str:
    """All that tables and figures want of a run, in one line of JSON: run.json with the recipe in it.

    What SWAD saw at each evaluation is left out: it is long, and the training curves of a run are drawn
    from its folder.
    """
    stages = {
        stage: report | {"averaging": {k: v for k, v in report["averaging"].items() if k != "segments"}}
        for stage, report in result.record["stages"].items()
    }
    recipe = {"recipe": result.recipe.model_dump(mode="json")}
    return json.dumps(recipe | result.record | {"stages": stages}, sort_keys=True)


def _load(run: Path) -> Result:
    record = read_record(run)
    _require_format(record, run / RECORD)
    return Result(run, load_recipe(run / RECIPE), record)


def _load_records(file: Path) -> list[Result]:
    results = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines or [""], start=1):
        place = Path(f"{file}:{number}")
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
            raise RunError(
                f"{place}: expected a run's record with its recipe, as `vl2v-deploy table RUN --out` writes "
                "them to runs.jsonl; of a single run, name the folder"
            )
        _require_format(record, place)
        recipe = recipe_from_tree(record.pop("recipe"), source=str(place))
        results.append(Result(place, recipe, record))
    return results


def _require_format(record: Mapping[str, Any], place: Path) -> None:
    if record.get("format") != 2 or "metrics" not in record:
        raise RunError(
            f"{place}: expected format 2, got {record.get('format')!r}: made by another version of "
            "vl2v-deploy; distill it again"
        )


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
