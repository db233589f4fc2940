"""Distilling from a ready Python object: what is recorded of it, and what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.teachers import ColourTeacher
from tests.helpers.tiny import write_recipe
from vl2v_deploy.distillation.dry_run import dry_run
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import ModelError, RecipeError
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import PythonRecipe, load_recipe


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    return write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.mark.parametrize("views", ["0", "2", "online"])
def test_a_student_is_distilled_from_a_python_object(tiny: Path, tmp_path: Path, views: str) -> None:
    recipe = load_recipe(tiny, [f"teacher_views={views}", "align.steps=2", "distill.steps=2"])
    teacher = ColourTeacher()
    [path] = distill_recipe(recipe, tmp_path / "run", teacher=teacher)
    record = json.loads((path / "run.json").read_text())
    assert record["teacher"]["identity"] == teacher.identity
    assert record["teacher"]["queries"] > 0
    assert (record["logit_scale"], record["embedding_dim"]) == (10.0, 8)
    run = load_run(path)
    assert run.recipe.teacher == PythonRecipe(kind="python", identity=teacher.identity)
    assert run.text_emb.shape == (2, 8)
    with pytest.raises(ModelError, match=rf"{teacher.identity} is a Python object.*pass it as teacher="):
        load_teacher(run.recipe.teacher)


def test_without_a_logit_scale_it_says_what_to_set_before_anything_is_paid(
    tiny: Path, tmp_path: Path
) -> None:
    class Silent(ColourTeacher):
        def embed_images(self, images: object) -> object:  # type: ignore[override]
            raise AssertionError("it was asked")

    with pytest.raises(ModelError, match=r"has no logit scale.*of a Python teacher"):
        distill_recipe(load_recipe(tiny), tmp_path / "run", teacher=Silent(logit_scale=None))


def test_what_needs_the_teacher_s_modules_names_its_kind(tiny: Path, tmp_path: Path) -> None:
    faithful = load_recipe(tiny, ["normalization=faithful"])
    with pytest.raises(RecipeError, match=r"teacher\.kind: python .*normalization: faithful needs open_clip"):
        distill_recipe(faithful, tmp_path / "run", teacher=ColourTeacher())
    with pytest.raises(RecipeError, match=r"teacher\.kind: python: a dry run needs the teacher"):
        dry_run(load_recipe(tiny, ["teacher={kind: python}"]))
    with pytest.raises(ModelError, match="object is no teacher"):
        distill_recipe(load_recipe(tiny), tmp_path / "run", teacher=object())  # type: ignore[arg-type]
    nameless = ColourTeacher()
    nameless.identity = ".."  # the store's folder is named after it
    with pytest.raises(ModelError, match=r"identity: expected text"):
        distill_recipe(load_recipe(tiny), tmp_path / "run", teacher=nameless)
    with pytest.raises(ModelError, match="pass it as teacher="):
        distill_recipe(load_recipe(tiny, ["teacher={kind: python}"]), tmp_path / "run")
