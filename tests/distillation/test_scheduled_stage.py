"""A stage with a schedule, against torch's own schedulers; a stage that ends when its patience does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR

from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.train.checkpoint import Checkpointer, Progress
from vl2v_deploy.distillation.train.loop import Batch, Stage, run_stage
from vl2v_deploy.distillation.train.objectives import optimizer_of
from vl2v_deploy.method.losses import StudentOutput
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.student import build_student
from vl2v_deploy.recipe import load_recipe

STEPS, WARMUP = 12, 3


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_weights_after_a_schedule_are_those_of_torchs_scheduler(schedule: str, tmp_path: Path) -> None:
    file = tiny.write_recipe(tmp_path, tmp_path / "no-data")
    settings = [f"align.steps={STEPS}", f"align.schedule={schedule}", f"align.warmup={WARMUP}"]
    recipe = load_recipe(file, [*settings, "align.averaging=last", "align.evaluate_every=5"])
    torch.manual_seed(0)
    student = build_student(recipe, 16, 2)
    features = torch.randn(STEPS, 4, student.projector.in_features)  # type: ignore[union-attr]
    wanted = torch.randn(16)
    reference = torch.nn.Linear(features.shape[2], 16)
    reference.load_state_dict(student.projector.state_dict())  # type: ignore[union-attr]
    stage = Stage(
        name="align",
        recipe=recipe.align,
        parameters=dict(student.projector.named_parameters()),  # type: ignore[union-attr]
        batches=lambda steps: (Batch(features[s], torch.arange(4), image_emb=None, whole=4) for s in steps),
        model=student.output,
        loss=lambda output, _: _distance(output, wanted),
        optimizer=optimizer_of(recipe, "align", dict(student.projector.named_parameters())),  # type: ignore[union-attr]
        evaluate=lambda: (1.0, 0.5),
    )
    run_stage(student, stage, Progress("", "", "align", 0, {}), Checkpointer(tmp_path, 60), World())

    optimizer = torch.optim.Adam(reference.parameters(), lr=recipe.align.learning_rate)
    rises = LambdaLR(optimizer, lambda step: (step + 1) / (WARMUP + 1))
    falls = CosineAnnealingLR(optimizer, STEPS - WARMUP)
    stays = LambdaLR(optimizer, lambda _: 1.0)
    after = falls if schedule == "cosine" else stays
    scheduler = SequentialLR(optimizer, [rises, after], milestones=[WARMUP])
    for step in range(STEPS):
        loss = _distance(StudentOutput(reference(features[step]), None), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    for name, value in reference.named_parameters():
        torch.testing.assert_close(dict(stage.parameters)[name], value, rtol=1e-4, atol=1e-6)


def _distance(output: StudentOutput, wanted: torch.Tensor) -> torch.Tensor:
    assert output.projected is not None
    return (output.projected - wanted).square().mean()


def test_swad_of_a_run_with_a_schedule_reports_its_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    file = tiny.write_recipe(tmp_path, make_domain_folder(tmp_path / "data", images=6))
    settings = [
        "distill.schedule=cosine",
        "distill.warmup=0.1",
        "distill.steps=10",
        "distill.evaluate_every=2",
    ]
    distill_recipe(load_recipe(file, settings), tmp_path / "run")
    stage = read_record(tmp_path / "run").stages["distill"]
    assert stage.steps == 10
    assert stage.averaging.kind == "swad"
    assert stage.averaging.averaged_steps >= 2


@pytest.mark.parametrize(
    ("accuracies", "patience", "evaluations"),
    [
        ([0.5, 0.6, 0.6, 0.55, 0.9], 2, 4),  # as good is not better
        ([0.5, 0.4, 0.6, 0.5, 0.7], 2, 5),
        ([0.5, 0.4, 0.3, 0.2, 0.1], None, 5),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 1, 2),
    ],
)
def test_a_stage_ends_with_its_patience(
    accuracies: list[float], patience: int | None, evaluations: int, tmp_path: Path
) -> None:
    file = tiny.write_recipe(tmp_path, tmp_path / "no-data")
    settings = ["align.steps=10", "align.evaluate_every=2", f"align.patience={json.dumps(patience)}"]
    recipe = load_recipe(file, [*settings, "align.averaging=last"])
    student, seen = build_student(recipe, 16, 2), iter(accuracies)
    features = torch.randn(4, student.projector.in_features)  # type: ignore[union-attr]
    stage = Stage(
        name="align",
        recipe=recipe.align,
        parameters=dict(student.projector.named_parameters()),  # type: ignore[union-attr]
        batches=lambda steps: (Batch(features, torch.arange(4), image_emb=None, whole=4) for _ in steps),
        model=student.output,
        loss=lambda output, _: _distance(output, torch.zeros(16)),
        optimizer=optimizer_of(recipe, "align", dict(student.projector.named_parameters())),  # type: ignore[union-attr]
        evaluate=lambda: (1.0, next(seen)),
    )
    progress = Progress("", "", "align", 0, {})
    run_stage(student, stage, progress, Checkpointer(tmp_path, 60), World())
    assert progress.reports["align"].steps == 2 * evaluations
    assert progress.accuracies == []  # the next stage has its own
