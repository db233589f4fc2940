"""The run directory: everything that a distillation writes, and all that export needs.

    RUN/
      recipe.yaml           the resolved recipe
      run.json              classes, accuracy, what was asked of the teacher, timings (models/record.py)
      student.safetensors   the student's weights, text_emb (K, D)
      metrics.jsonl         one line per logged step or evaluation
      training.png          loss curves and accuracy per domain

It is written as RUN.partial and renamed when it is complete: a directory called RUN is always finished.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vl2v_deploy.errors import RunError
from vl2v_deploy.folders import claim_folder, partial_of, replace_folder, start_folder
from vl2v_deploy.models.ledger.booking import is_bill, new_bill
from vl2v_deploy.models.record import RECORD, RunRecord, finished_runs, read_record, write_record
from vl2v_deploy.models.student import Student, build_student
from vl2v_deploy.names import listed
from vl2v_deploy.recipe import (
    Recipe,
    changed_settings,
    dump_recipe,
    load_run_recipe,
    method_of,
    recipe_sha256,
)
from vl2v_deploy.recipe.yaml_text import tree_from_yaml

RECIPE, WEIGHTS, METRICS = "recipe.yaml", "student.safetensors", "metrics.jsonl"
# Only in RUN.partial: how far an unfinished run is; what its queries are booked on, over all restarts; that
# --overwrite was given for it when RUN was there.
CHECKPOINT, BILL, REPLACES = "checkpoint.pt", ".bill", ".replaces"


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    student:     in eval mode, on the CPU
    text_emb:    (K, D) zero-shot classifier, L2-normalised
    logit_scale: s
    """

    path: Path
    recipe: Recipe
    student: Student
    text_emb: Tensor
    logit_scale: float
    record: RunRecord

    @property
    def classes(self) -> tuple[str, ...]:
        return self.record.classes


def require_startable(out: Path, *, overwrite: bool, resume: bool) -> None:
    """RunError when `out` exists, or an interrupted run is there, and may not be overwritten or resumed."""
    remove_leftovers(out)
    if out.exists() and not overwrite and not (resume and is_interrupted_replacement(out)):
        raise RunError(f"{out}: exists already; pass --overwrite to replace it, or another --out")
    if out.exists() and not (out / RECORD).is_file():
        raise RunError(f"{out}: is not a run directory: it will not be overwritten; pass another --out")
    if inside := finished_runs(out):
        raise RunError(f"{out}: holds other runs ({inside[0].name}, ...): it will not be overwritten")
    if (partial_of(out) / CHECKPOINT).is_file() and not overwrite and not resume:
        raise RunError(
            f"{out}: an interrupted run is there; pass --resume to go on, or --overwrite to start again"
        )


def is_interrupted_replacement(out: Path) -> bool:
    """Whether an interrupted run lies beside `out` that was started to overwrite it."""
    unfinished = partial_of(out)
    return (unfinished / REPLACES).is_file()


def is_resumable(out: Path) -> bool:
    """Whether an interrupted run lies beside `out` that came to a checkpoint, and `out` is not in its way."""
    unfinished = partial_of(out)
    return (unfinished / CHECKPOINT).is_file() and (not out.exists() or (unfinished / REPLACES).is_file())


def start_run(out: Path, recipe: Recipe, *, overwrite: bool, resume: bool = False) -> Path:
    """RUN.partial holding the recipe: empty, or with `resume` as an interrupted run of the recipe left it.

    Raises RunError when `out` exists, or an interrupted run is there, and may not be overwritten; when it is
    to be resumed but was started from another recipe.
    """
    require_startable(out, overwrite=overwrite, resume=resume)
    unfinished = partial_of(out)
    bill = _bill_of(unfinished, recipe) or new_bill()
    if resume and not overwrite and (unfinished / CHECKPOINT).is_file():
        started = load_run_recipe(unfinished / RECIPE)
        if recipe_sha256(started) != recipe_sha256(recipe):
            raise RunError(_other_recipe(unfinished, started, recipe))
        claim_folder(unfinished)
        _write_bill(unfinished, bill, recipe)
        return unfinished
    replaces = overwrite or (resume and is_interrupted_replacement(out))
    partial = start_folder(out)
    if replaces and out.exists():
        (partial / REPLACES).touch()
    _write_bill(partial, bill, recipe)
    (partial / RECIPE).write_text(dump_recipe(recipe), encoding="utf-8")
    return partial


def _other_recipe(unfinished: Path, started: Recipe, recipe: Recipe) -> str:
    """The error about a run that is to be resumed with other settings than it was started with."""
    changed = changed_settings(started, recipe)
    parts = [f"{field} was {_written(was)}, is {_written(now)}" for field, (was, now) in changed.items()]
    settings = [word for field, (was, _) in changed.items() for word in ("--set", f"{field}={_written(was)}")]
    return (
        f"{unfinished}: was started from another recipe: {listed(parts, most=20)}; pass --resume "
        f"{shlex.join(settings)} to go on as it was started, --overwrite to start again, or another --out"
    )


def _written(value: Any) -> str:
    """A setting's value as --set takes it."""
    try:
        plain = isinstance(value, str) and tree_from_yaml(value) == value
    except yaml.YAMLError:
        plain = False
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def finish_run(
    partial: Path, out: Path, student: Student | None, text_emb: Tensor, record: RunRecord
) -> None:
    """Weights and record into RUN.partial, then RUN.partial becomes RUN in one rename.

    student: None for a method that trains none
    """
    if student is not None:
        weights = {f"student.{key}": value.contiguous() for key, value in student.state_dict().items()}
        weights["text_emb"] = text_emb.contiguous()
        save_file(weights, partial / WEIGHTS)
    write_record(record, partial)
    replace_folder(out, partial)
    remove_leftovers(out)  # only now: a kill before this could still be resumed


def load_run(path: Path) -> Run:
    """The finished run at `path`, its student on the CPU.

    Raises RunError for a directory that is missing, unfinished, damaged, holds several runs, or is of a
    method that trains no student.
    """
    record = read_record(path)
    recipe = load_run_recipe(path / RECIPE)
    if not method_of(recipe).student:
        raise RunError(f"{path}: {recipe.method} trains no student: there is nothing to export or load")
    try:
        weights = load_file(path / WEIGHTS)
        text_emb = weights.pop("text_emb")
    except (SafetensorError, KeyError, OSError) as error:
        raise RunError(f"{path / WEIGHTS}: missing or damaged: {error}") from error
    classes, embedding_dim = text_emb.shape
    student = build_student(recipe, embedding_dim, classes, weights=False)
    try:
        student.load_state_dict({key.removeprefix("student."): value for key, value in weights.items()})
    except RuntimeError as error:
        raise RunError(f"{path / WEIGHTS}: does not fit {recipe.student.backbone}: {error}") from error
    return Run(path, recipe, student.eval(), text_emb, record.logit_scale, record)


def newest_run(folder: Path) -> Path:
    """The run finished last in `folder`; RunError when there is none."""
    runs = finished_runs(folder)
    if not runs:
        raise RunError(f"{folder}: holds no finished run; make one with: vl2v-deploy distill RECIPE")
    return runs[-1]


def read_bill(partial: Path) -> str:
    """What the queries of the run that is written in `partial` are booked on."""
    return (partial / BILL).read_text(encoding="ascii").split()[0]


def remove_leftovers(out: Path) -> None:
    """Removes what a finished run no longer needs; a kill right after the last rename leaves it."""
    if (out / RECORD).is_file():
        for name in (CHECKPOINT, BILL, REPLACES):
            with suppress(OSError):  # it harms nobody
                (out / name).unlink()


def _write_bill(partial: Path, bill: str, recipe: Recipe) -> None:
    text, file = f"{bill} {recipe_sha256(recipe)}", partial / BILL
    if not file.is_file() or file.read_text(encoding="ascii", errors="replace") != text:
        file.write_text(text, encoding="ascii")


def _bill_of(unfinished: Path, recipe: Recipe) -> str | None:
    """The bill of an unfinished run of the recipe, also of one that has no checkpoint yet."""
    try:
        bill, sha256 = (unfinished / BILL).read_text(encoding="ascii").split()
    except (OSError, ValueError):  # there is none, or it was killed at the very start
        return None
    return bill if sha256 == recipe_sha256(recipe) and is_bill(bill) else None
