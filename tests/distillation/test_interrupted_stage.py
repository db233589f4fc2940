"""A signal at the end of a stage: what is done is kept, and the resumed stage trains no step more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import tiny
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.train import loop
from vl2v_deploy.distillation.train.checkpoint import Checkpointer, Progress, load_checkpoint
from vl2v_deploy.distillation.train.loop import Batch, Stage, run_stage
from vl2v_deploy.distillation.train.objectives import optimizer_of
from vl2v_deploy.method.losses import StudentOutput
from vl2v_deploy.models.student import Student, build_student
from vl2v_deploy.recipe import Recipe, load_recipe
from vl2v_deploy.signals import Interrupted, ended_by_signals

STEPS, EVERY = 10, 2


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    file = tiny.write_recipe(tmp_path, tmp_path / "no-data")
    settings = [f"align.steps={STEPS}", f"align.evaluate_every={EVERY}", "align.patience=1"]
    return load_recipe(file, [*settings, "align.averaging=last", "align.hand_over=averaged"])


def trained(recipe: Recipe, folder: Path, accuracies: Iterator[float]) -> tuple[Student, Progress]:
    """The student after the stage, from where the folder's checkpoint says."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    student = build_student(recipe, 16, 2)
    progress = load_checkpoint(folder) or Progress("", "", "align", 0, {})
    if progress.student:
        student.load_state_dict(progress.student)
    if progress.stage == "align":
        run_stage(student, stage_of(recipe, student, accuracies), progress, Checkpointer(folder, 60), World())
    return student, progress


def stage_of(recipe: Recipe, student: Student, accuracies: Iterator[float]) -> Stage:
    assert student.projector is not None
    parameters = dict(student.projector.named_parameters())
    features = torch.randn(
        STEPS, 4, student.projector.in_features, generator=torch.Generator().manual_seed(1)
    )
    return Stage(
        name="align",
        recipe=recipe.align,
        parameters=parameters,
        batches=lambda steps: (Batch(features[step], torch.arange(4), None, whole=4) for step in steps),
        model=student.output,
        loss=lambda output, _: _size(output),
        optimizer=optimizer_of(recipe, "align", parameters),
        evaluate=lambda: (1.0, next(accuracies)),
    )


def _size(output: StudentOutput) -> torch.Tensor:
    assert output.projected is not None
    return (output.projected - 1).square().mean()


def terminated(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("during", ["is_exhausted", "_use", "_report"])
def test_signals_at_the_end_of_a_stage_lose_nothing(
    during: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second evaluation is no better than the first, which ends the stage."""
    alone, whole = trained(recipe, tmp_path / "alone", iter([0.5, 0.5]))
    assert whole.stage == "done" and whole.reports["align"].steps == 2 * EVERY < STEPS
    usual, calls = getattr(loop, during), []

    def interrupted(*arguments: object) -> object:
        calls.append(during)
        if during != "is_exhausted" or len(calls) == 2:
            terminated()
        return usual(*arguments)

    with monkeypatch.context() as patched, ended_by_signals():
        patched.setattr(loop, during, interrupted)
        with pytest.raises(Interrupted):
            trained(recipe, tmp_path / "ended", iter([0.5, 0.5]))
    student, progress = trained(recipe, tmp_path / "ended", iter([]))  # nothing is evaluated again
    assert progress.stage == "done" and progress.reports["align"].steps == 2 * EVERY
    for name, value in alone.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name
