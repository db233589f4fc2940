"""A grid of settings over one recipe: `vl2v-deploy sweep RECIPE --set FIELD=VALUE,VALUE,...`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vl2v_deploy.distillation.run import distill_recipes
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.recipe import Recipe, load_recipe
from vl2v_deploy.recipe.files import told_of
from vl2v_deploy.recipe.yaml_text import problem_in, tree_from_yaml


def sweep_recipe(
    file: Path, grid: Sequence[str], out: Path, *, skip_bad: bool, overwrite: bool, resume: bool
) -> list[Path]:
    """The finished runs of every combination of the swept values, each in out/FIELD=VALUE,.../.

    grid: 'field=value,value,...' each; one with a single value applies to all runs

    Every combination is checked before the first one runs. Runs that are finished are not run again.

    Raises RecipeError for a field or value that the recipe does not take, and what distill_recipes raises.
    """
    recipes = swept_recipes(file, grid, out)
    return distill_recipes(recipes, skip_bad=skip_bad, overwrite=overwrite, resume=resume)


def swept_recipes(file: Path, grid: Sequence[str], out: Path) -> list[tuple[Recipe, Path]]:
    """The recipe of every combination, and the folder of its runs."""
    return [(load_recipe(file, overrides), folder) for overrides, folder in combinations(grid, out)]


def combinations(grid: Sequence[str], out: Path) -> list[tuple[list[str], Path]]:
    """The overrides of every combination of the swept values, and the folder of its runs."""
    axes = [_values(setting) for setting in grid]
    if all(len(values) == 1 for _, values in axes):
        raise RecipeError("sweep: nothing varies; give --set FIELD=VALUE,VALUE,... such as distill.seed=0,1")
    found = []
    for combination in itertools.product(*(values for _, values in axes)):
        chosen = [(field, value) for (field, _), value in zip(axes, combination, strict=True)]
        varied = [
            f"{field}={_slug(value)}"
            for (field, value), (_, values) in zip(chosen, axes, strict=True)
            if len(values) > 1
        ]
        overrides = [f"{field}={json.dumps(value, default=str)}" for field, value in chosen]
        found.append((overrides, out / ",".join(varied)))
    return found


def _values(setting: str) -> tuple[str, list[Any]]:
    field, equals, text = setting.partition("=")
    try:
        values = tree_from_yaml(f"[{text}]")
    except yaml.YAMLError as error:
        raise RecipeError(f"{told_of(setting)}: the values are not YAML: {problem_in(error)}") from error
    if not equals or not field.strip() or not values:
        raise RecipeError(f"{told_of(setting)}: expected FIELD=VALUE,VALUE,...")
    return field.strip(), values


def _slug(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(
        r"[^A-Za-z0-9._+-]+", "_", value if isinstance(value, str) else json.dumps(value, default=str)
    ).strip("_")
