"""Smaller images in the first steps: which steps have them, through resume, processes and dry run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.distillation.test_resume import interrupt_at, same_weights
from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.teachers import ColourTeacher
from vl2v_deploy.data.augment import Augment
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.data.sampling import StepBatches, domain_rows
from vl2v_deploy.distillation.dry_run import dry_run
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import ModelError, RecipeError
from vl2v_deploy.models.student import Student
from vl2v_deploy.recipe import load_recipe, recipe_sha256

EARLY = ("distill.early_image_size_px=16", "distill.early_steps=0.5")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    return tiny.write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def test_the_schedule_of_sizes_changes_nothing_else_in_a_step(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    domain_set = load_domains(recipe.data)
    sources = domain_set.sources("photo")
    samples = domain_set.select(sources, "train")
    kept = {
        "samples": samples,
        "rows_of": domain_rows(samples, sources),
        "per_domain": 4,
        "augment": Augment(recipe.distill.augmentation, 32),
        "seed": 3,
        "cache": ImageCache(10**7),
        "views": 2,
    }
    plain, scheduled = StepBatches(**kept), StepBatches(early=(16, 2), **kept)
    half = StepBatches(early=(16, 2), rank=1, world=2, **kept)
    for one, two in zip(plain.in_order(range(4), 2), scheduled.in_order(range(4), 2), strict=True):
        assert torch.equal(one.rows, two.rows)
        assert torch.equal(one.views, two.views)
        assert torch.equal(one.colours.factors, two.colours.factors)
    for step, side in enumerate((16, 16, 32, 32)):
        batch = scheduled.batch(step)
        assert batch.images.shape == (8, side, side, 3)
        assert torch.equal(half.batch(step).images, batch.images[1::2])
        assert torch.equal(batch.images, plain.batch(step).images) == (side == 32)


def test_a_run_with_a_schedule_of_sizes_evaluates_at_full_size_and_resumes(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    evaluated: set[int] = set()
    features = Student.features

    def watched(student: Student, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            trained.append(images.shape[1])
        else:
            evaluated.add(images.shape[1])
        return features(student, images)

    recipe = load_recipe(recipe_file, [*EARLY, "teacher_views=2", "checkpoint_every_s=0"])
    with monkeypatch.context() as patched:
        patched.setattr(Student, "features", watched)
        distill_recipe(recipe, tmp_path / "whole", teacher=ColourTeacher())
    assert trained == [16, 16, 32, 32]
    assert evaluated == {32}
    for step in (1, 3):  # in the middle of either size
        with monkeypatch.context() as patched:
            interrupt_at("distill", step, patched)
            with pytest.raises(KeyboardInterrupt):
                distill_recipe(recipe, tmp_path / f"at-{step}", teacher=ColourTeacher())
        distill_recipe(recipe, tmp_path / f"at-{step}", teacher=ColourTeacher(), resume=True)
        assert same_weights(tmp_path / "whole", tmp_path / f"at-{step}")
    plain = load_recipe(recipe_file, ["teacher_views=2", "checkpoint_every_s=0"])
    assert recipe_sha256(recipe) != recipe_sha256(plain)
    distill_recipe(plain, tmp_path / "plain", teacher=ColourTeacher())
    assert not same_weights(tmp_path / "whole", tmp_path / "plain")


def test_a_dry_run_tries_both_sizes_of_a_schedule(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = Student.forward

    def watched(student: Student, images: torch.Tensor) -> object:
        sizes.append(images.shape[1])
        return forward(student, images)

    monkeypatch.setattr(Student, "forward", watched)
    dry_run(load_recipe(recipe_file, [*EARLY]))
    assert set(sizes) == {16, 32}
    vit = ["student.backbone=test_vit", "student.weights=timm", "student.image_size_px=64"]
    with pytest.raises(ModelError, match="early_image_size_px"):
        dry_run(load_recipe(recipe_file, [*EARLY, *vit]))


@pytest.mark.parametrize(
    "settings",
    [
        ["distill.early_image_size_px=32"],
        ["distill.early_image_size_px=64"],
        ["distill.early_image_size_px=16", "distill.early_steps=4"],
        ["distill.early_image_size_px=16", "distill.early_steps=0.01"],
        ["distill.early_image_size_px=16", "teacher_views=online"],
    ],
)
def test_a_schedule_of_sizes_that_makes_no_sense_is_refused(recipe_file: Path, settings: list[str]) -> None:
    with pytest.raises(RecipeError, match="early_image_size_px"):
        load_recipe(recipe_file, settings)
