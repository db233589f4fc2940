"""A sweep as a file: `recipe`, the values that `set` gives its fields, and what was measured beforehand.

recipe: quickstart.yaml
set:
  student.backbone: [resnet18, tf_efficientnet_lite0]
latency:
  image_size_px: 96
  machine: ...
  median_ms:
    resnet18: {fp32: 4.1, int8: 2.2}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vl2v_deploy.distillation.study.latency import Latency
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.names import shown
from vl2v_deploy.recipe.yaml_text import tree_of_file

KEYS = ("recipe", "set", "latency")


@dataclass(frozen=True)
class Sweep:
    """recipe: the file that is varied; grid: as `sweep --set` takes it; latency: None where not measured."""

    recipe: Path
    grid: tuple[str, ...]
    latency: Latency | None


def read_sweep(file: Path, settings: Sequence[str] = ()) -> Sweep:
    """The sweep in a file, or of a plain recipe.

    settings: FIELD=VALUE,VALUE,... of the command line, which take the place of the file's for a field

    Raises RecipeError for a file that is neither.
    """
    tree = tree_of_file(file, RecipeError)
    if not isinstance(tree, dict) or "recipe" not in tree:
        return Sweep(file, tuple(settings), None)
    if unknown := [str(key) for key in tree if key not in KEYS]:
        raise RecipeError(f"{shown(file)}: {unknown[0]}: unknown; a sweep file has {', '.join(KEYS)}")
    values: Any = tree.get("set")
    if not isinstance(tree["recipe"], str) or not _is_grid(values):
        raise RecipeError(
            f"{shown(file)}: expected recipe: FILE, and set: with a list of values for each field"
        )
    given = {setting.partition("=")[0].strip() for setting in settings}
    grid = [
        f"{field}={', '.join(json.dumps(value, default=str) for value in listed)}"
        for field, listed in values.items()
        if field not in given
    ]
    return Sweep(file.parent / tree["recipe"], (*grid, *settings), _latency(file, tree.get("latency")))


def write_sweep(
    file: Path, recipe: Path, values: Mapping[str, Sequence[Any]], latency: Latency, comment: str
) -> None:
    """Write a sweep of `recipe`, which is named relative to the file.

    comment: the first line
    """
    tree = {
        "recipe": _relative(recipe, file.parent),
        "set": {field: list(listed) for field, listed in values.items()},
        "latency": {
            "image_size_px": latency.image_size_px,
            "machine": latency.machine,
            "median_ms": {name: dict(found) for name, found in latency.median_ms.items()},
        },
    }
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    file.write_text(f"# {comment}\n{text}", encoding="utf-8")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _is_grid(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(field, str) and isinstance(listed, list) and listed for field, listed in values.items()
    )


def _latency(file: Path, tree: Any) -> Latency | None:
    if tree is None:
        return None
    try:
        return Latency(
            int(tree["image_size_px"]),
            {
                str(name): {str(precision): float(ms) for precision, ms in found.items()}
                for name, found in tree["median_ms"].items()
            },
            str(tree["machine"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"{shown(file)}: latency: expected image_size_px, machine and median_ms by backbone and "
            "precision, as shortlist writes them"
        ) from error
