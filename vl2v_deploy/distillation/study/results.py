"""Finished runs, read for tables and figures: from their folders, or from the lines that a table leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from vl2v_deploy.errors import RunError
from vl2v_deploy.models.record import (
    RECORD,
    RunRecord,
    finished_runs,
    read_record,
    record_from_tree,
)
from vl2v_deploy.models.record_parts.measured import DomainMetrics
from vl2v_deploy.models.run_directory import RECIPE
from vl2v_deploy.recipe import METHODS, Recipe, as_written, flattened, load_run_recipe, recipe_from_tree

# What may differ between the runs of one row: target and trial, and what changes no result.
_NOT_A_SETTING = {
    *("method", "label", "protocol", "per_method", "trials", "seed", "device", "checkpoint_every_s"),
    *("data.root", "data.manifest", "data.target", "data.classes", "data.split.seed", "teacher.batch_size"),
    *("distill.workers", "distill.image_cache_gb", "distill.compile"),
    # of a vendor: how fast, at what price and under which terms it is asked
    *("teacher.concurrency", "teacher.timeout_s", "teacher.requests_per_minute", "teacher.images_per_minute"),
    *("teacher.usd_per_1k_images", "teacher.usd_per_1k_texts", "teacher.key_env", "teacher.online"),
    *("teacher.budget.max_usd", "teacher.budget.max_queries"),
    *("teacher.terms.url", "teacher.terms.read_on", "teacher.terms.permits"),
}
DUPLICATES = "data.split.duplicates"

Seeds = tuple[int, int]  # of the run and of its split: they tell trials apart


@dataclass(frozen=True)
class Result:
    """One finished run.

    path:   its folder, or the file and line of its record
    record: without SWAD's segments where it was read from a line
    no_copies: whether its data are known to hold no two images of the same bytes
    """

    path: Path
    recipe: Recipe
    record: RunRecord
    no_copies: bool = False

    @property
    def method(self) -> str:
        return self.record.method

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return self.recipe.label or METHODS[self.method].label

    @property
    def target(self) -> str:
        return self.record.target

    @property
    def seeds(self) -> Seeds:
        return self.recipe.seed, self.recipe.data.split.seed

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(sorted(self.record.metrics))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every field of the recipe that can make a difference, by its dotted name."""
        flat = flattened(self.recipe.model_dump(mode="json"))
        moot = {DUPLICATES} if self.no_copies else set()
        return {field: value for field, value in flat.items() if field not in _NOT_A_SETTING | moot}

    @property
    def ood(self) -> DomainMetrics | None:
        """Measured on the target; None where no domain was kept unseen."""
        return self.record.metrics.get(self.target)

    @property
    def ood_accuracy(self) -> float | None:
        return self.ood.accuracy if self.ood else None

    @property
    def id_accuracy(self) -> float:
        """Mean accuracy over the source domains."""
        return fmean(found.accuracy for domain, found in self.record.metrics.items() if domain != self.target)

    @property
    def source_val(self) -> float:
        """Accuracy on the sources' val split."""
        return self.record.accuracy.student_source_val

    @property
    def agreement(self) -> float | None:
        """With the teacher on images without labels; None where it was not measured."""
        return self.record.agreement.same_class if self.record.agreement else None

    def class_accuracy(self, name: str) -> float | None:
        """Of one class on the target; None where the target has no image of it."""
        return self.ood.per_class[name].accuracy if self.ood else None


def load_results(paths: Iterable[Path]) -> list[Result]:
    """The finished runs that `paths` are or hold at any depth, each once.

    paths: folders, or files with one run per line (see `record_line`)

    Raises RunError when a path holds none, a line is no record, or a run is of another format.
    """
    found: dict[Path, Result] = {}
    for path in paths:
        if path.is_file():
            found |= {result.path.resolve(): result for result in _load_lines(path)}
            continue
        inside = [] if (path / RECORD).is_file() else finished_runs(path)
        for run in inside or [path]:
            if run.resolve() not in found:
                found[run.resolve()] = _load(run)
    return list(found.values())


def record_line(result: Result) -> str:
    """All that tables and figures need of a run, in one line of JSON: run.json with the recipe in it.

    SWAD's segments are left out: they are long, and a run's training curves are drawn from its folder.
    """
    tree = result.record.model_dump(mode="json")
    for report in tree["stages"].values():
        report["averaging"].pop("segments", None)
    return json.dumps(tree | {"recipe": result.recipe.model_dump(mode="json")}, sort_keys=True)


def _load(run: Path) -> Result:
    record = read_record(run)
    return Result(run, load_run_recipe(run / RECIPE), record)


def _load_lines(file: Path) -> list[Result]:
    results = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines or [""], start=1):
        place = Path(f"{file}:{number}")
        try:
            tree = json.loads(line)
        except ValueError:
            tree = None
        if not isinstance(tree, dict) or not isinstance(tree.get("recipe"), dict):
            raise RunError(
                f"{place}: expected a run's record with its recipe, as `vl2v-deploy table RUN --out` writes "
                "them to runs.jsonl; of a single run, name the folder"
            )
        record = record_from_tree(tree, place)
        recipe = recipe_from_tree(as_written(tree["recipe"]), source=str(place))
        results.append(Result(place, recipe, record))
    return results


def shown(value: Any) -> str:
    """A setting's value as it is printed; of a path only the name."""
    if isinstance(value, str):
        return Path(value).name if "/" in value else value
    if isinstance(value, list):
        return "+".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
