"""The runs of a recipe or sweep, each as a command that gives exactly its folder, wherever it is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vl2v_deploy.data.layout import find_layout
from vl2v_deploy.distillation.protocol import PlannedRun, planned_runs
from vl2v_deploy.errors import RunError
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.record import RECORD
from vl2v_deploy.models.run_directory import CHECKPOINT
from vl2v_deploy.names import shown
from vl2v_deploy.recipe import Recipe, load_recipe, methods_of

PLAN = "planned_runs.json"
_FORMAT = 1


@dataclass(frozen=True)
class RunCommand:
    """One run as a command of its own.

    name:  of the run: its folder below that of the study
    path:  its folder
    words: the command without the program; it is idempotent, and goes on with an interrupted run
    """

    name: str
    path: Path
    words: tuple[str, ...]


def run_commands(
    file: Path, studies: Sequence[tuple[Sequence[str], Path]], out: Path, flags: Sequence[str] = ()
) -> list[RunCommand]:
    """A command for each run of a recipe file.

    studies: overrides of the recipe, and the folder of the runs it then stands for; of a sweep one for each
             combination
    out:     the folder of all
    flags:   further options of `distill`, such as --skip-bad

    Raises RecipeError for an override that does not fit, DataError where the domains cannot be listed.
    """
    commands = []
    for overrides, folder in studies:
        recipe = load_recipe(file, overrides)
        domains = find_layout(recipe.data).domains if recipe.data.target == "each" else ()
        for planned in planned_runs(recipe, folder, domains):
            settings = [*overrides, *_overrides_of(recipe, planned)]
            options = [word for setting in settings for word in ("--set", setting)]
            words = ("distill", _path(file), "--out", _path(planned.path), *options, *flags, "--resume")
            name = planned.path.relative_to(out).as_posix()
            commands.append(RunCommand(name if name != "." else out.name, planned.path, words))
    return commands


def _path(path: Path) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _overrides_of(recipe: Recipe, planned: PlannedRun) -> list[str]:
    """What turns the recipe of several runs into that of one."""
    one = planned.recipe
    changed: dict[str, Any] = {}
    if len(methods_of(recipe)) > 1:
        method = methods_of(one)[0]
        own = recipe.per_method.get(method)
        changed["per_method"] = {} if own is None else {method: own}
        changed["method"] = method
    if recipe.data.target == "each":
        changed["data.target"] = one.data.target
    if recipe.trials > 1:
        changed |= {"trials": 1, "seed": one.seed, "data.split.seed": one.data.split.seed}
    return [f"{field}={json.dumps(value, default=dict)}" for field, value in changed.items()]


def write_plan(commands: Sequence[RunCommand], out: Path) -> None:
    """Note in `out` which runs a study has, so that a table can name those that are missing."""
    out.mkdir(parents=True, exist_ok=True)
    runs = [command.path.relative_to(out).as_posix() for command in commands]
    written = out / f"{PLAN}.partial"
    written.write_text(json.dumps({"format": _FORMAT, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    written.replace(out / PLAN)


def missing_runs(folders: Sequence[Path]) -> list[str]:
    """The planned runs that are not finished, in words: which, and how far each came.

    folders: as named to `table`; those without a plan are passed over

    Raises RunError for a plan that cannot be read.
    """
    missing = []
    plans = {file.resolve(): file for folder in folders if folder.is_dir() for file in folder.rglob(PLAN)}
    for file in plans.values():
        for run in (file.parent / name for name in _read_plan(file)):
            if not (run / RECORD).is_file():
                begun = (partial_of(run) / CHECKPOINT).is_file()
                missing.append(f"{shown(run)}: {'has a checkpoint' if begun else 'not begun'}")
    return missing


def _read_plan(file: Path) -> list[str]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        format_, runs = tree["format"], tree["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: is no list of planned runs; delete it, or give the sweep again") from error
    if format_ != _FORMAT or not all(isinstance(run, str) for run in runs):
        raise RunError(f"{file}: expected format {_FORMAT} and the runs' folders; give the sweep again")
    return list(runs)
