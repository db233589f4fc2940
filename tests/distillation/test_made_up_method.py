"""A method that is added to the table alone, with its loss, is trained, evaluated, tabled and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.run_folders import write_run
from tests.helpers.tiny import write_recipe as write_tiny
from vl2v_deploy.distillation.dry_run import dry_run
from vl2v_deploy.distillation.purchase.ahead import embed_ahead
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.study.figures import draw_figures
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.method.losses import LOSSES, Baselines, StudentOutput, Targets
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.student import build_student
from vl2v_deploy.recipe import METHODS, Method, Recipe, load_recipe

SEEN: list[float] = []


def made_up_loss(output: StudentOutput, targets: Targets, weight: float, _: Baselines) -> Tensor:
    """Squared distance to a mixture of both embeddings."""
    assert output.projected is not None and targets.image_emb is not None
    SEEN.append(weight)
    mixed = weight * targets.image_emb + (1 - weight) * targets.text_emb[targets.labels]
    return (output.projected - mixed).square().mean()


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    row = Method(
        label="Made up",
        student=("backbone", "projector"),
        stages={"align": ("projector",), "distill": ("backbone", "projector")},
        loss="made_up",
        teacher_images="weighted",
        unused=("baseline.",),
    )
    monkeypatch.setitem(METHODS, "made_up", row)
    monkeypatch.setitem(LOSSES, "made_up", made_up_loss)
    SEEN.clear()
    yield


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    file = write_tiny(tmp_path, make_domain_folder(tmp_path / "data"))
    return load_recipe(file, ["method=made_up", "distill.image_weight=0.25"])


def test_it_is_trained_and_evaluated(recipe: Recipe, tmp_path: Path) -> None:
    [tried] = dry_run(recipe)
    assert tried.losses.keys() == {"align", "distill"}
    bought = embed_ahead(recipe)
    assert bought.bought == bought.needed == 28 + 4 + 4 + 20  # training images, and those it is measured on
    [path] = distill_recipe(recipe, tmp_path / "run")
    assert set(SEEN) == {recipe.align.image_weight, 0.25}
    run = load_run(path)
    torch.manual_seed(recipe.seed)
    start = build_student(recipe, 16, 2).state_dict()
    moved = {
        key.partition(".")[0]
        for key, value in run.student.state_dict().items()
        if (value != start[key]).any()
    }
    assert moved == {"backbone", "projector"}
    assert run.record.method == "made_up"
    assert run.record.stages.keys() == {"align", "distill"}
    assert run.record.accuracy.student.keys() == {"ink", "paint", "photo"}
    assert run.record.teacher.queries == 0  # all of it was bought ahead


def test_it_is_tabled_and_drawn(tmp_path: Path) -> None:
    for weight in (0.0, 1.0):
        settings = {"distill.image_weight": weight}
        write_run(tmp_path / "runs" / str(weight), method="made_up", ood=weight, settings=settings)
    [table] = tables([tmp_path / "runs"])
    assert [row.label for row in table.rows] == [f"Made up, distill.image_weight={w}" for w in (0, 1)]
    drawn = draw_figures([tmp_path / "runs"], tmp_path / "out")
    assert {path.name for path in drawn.files} == {"methods.png", "per_class.png", "lambda.png"}
