"""The runs that one recipe stands for: methods x target domains x trials (DomainBed's protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.recipe import Recipe, methods_of, recipe_of_method


@dataclass(frozen=True)
class PlannedRun:
    """One run of a protocol.

    path:   its directory
    recipe: of one method, one target, one trial, with that trial's seeds
    trial:  0, 1, ...
    """

    path: Path
    recipe: Recipe
    trial: int


def planned_runs(recipe: Recipe, out: Path, domains: Sequence[str]) -> list[PlannedRun]:
    """Every run of a recipe, trial by trial, so that a table of one trial is complete early.

    A run's directory is out/method/target/trial-N, with only those parts that the recipe has several of.

    domains: of the data; all are targets in turn when `data.target` is each
    """
    methods = methods_of(recipe)
    targets = tuple(domains) if recipe.data.target == "each" else (recipe.data.target,)
    runs = []
    for trial in range(recipe.trials):
        for target in targets:
            for method in methods:
                path = out
                if len(methods) > 1:
                    path /= method
                if recipe.data.target == "each":
                    path /= target
                if recipe.trials > 1:
                    path /= f"trial-{trial}"
                runs.append(PlannedRun(path, _single(recipe_of_method(recipe, method), target, trial), trial))
    return runs


def is_one_run(recipe: Recipe) -> bool:
    """Whether the run directory is `out` itself."""
    return len(methods_of(recipe)) == 1 and recipe.data.target != "each" and recipe.trials == 1


def _single(recipe: Recipe, target: str, trial: int) -> Recipe:
    split = recipe.data.split.model_copy(update={"seed": recipe.data.split.seed + trial})
    data = recipe.data.model_copy(update={"target": target, "split": split})
    return recipe.model_copy(update={"data": data, "seed": recipe.seed + trial, "trials": 1})
