"""What an interrupted run was started with is named by the very --set options that go on with it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from vl2v_deploy.errors import RunError
from vl2v_deploy.folders import start_folder
from vl2v_deploy.models.record import RECORD
from vl2v_deploy.models.run_directory import CHECKPOINT, is_interrupted_replacement, start_run
from vl2v_deploy.recipe import dump_recipe, load_recipe, recipe_from_tree

TREE = {
    "data": {"root": "pictures", "target": "photo"},
    "teacher": {"model": "ViT-B-16", "pretrained": "openai"},
    "student": {"backbone": "vit_small_patch16_224"},
}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(TREE))
    return file


def interrupted(out: Path, text: str) -> None:
    folder = start_folder(out)
    (folder / "recipe.yaml").write_text(text)
    (folder / CHECKPOINT).write_bytes(b"")


def advised(error: RunError) -> list[str]:
    """The values of --set in the advice."""
    found = re.search(r"--resume (.*) to go on as it was started", str(error))
    assert found
    words = shlex.split(found[1])
    assert set(words[::2]) == {"--set"}
    return words[1::2]


def test_a_run_of_an_older_version_names_what_that_version_did(recipe_file: Path, tmp_path: Path) -> None:
    older = recipe_from_tree(load_recipe(recipe_file).model_dump(mode="json"), "older").model_dump(
        mode="json"
    )
    del older["validation_mean"], older["data"]["split"]["duplicates"]
    interrupted(tmp_path / "run", yaml.safe_dump(older))
    with pytest.raises(RunError) as caught:
        start_run(tmp_path / "run", load_recipe(recipe_file), overwrite=False, resume=True)
    settings = advised(caught.value)
    assert sorted(settings) == ["data.split.duplicates=allow", "validation_mean=images"]
    start_run(tmp_path / "run", load_recipe(recipe_file, settings), overwrite=False, resume=True)


def test_any_setting_is_named_as_a_shell_takes_it(recipe_file: Path, tmp_path: Path) -> None:
    then = [
        "distill.steps=7",
        "student.weights='timm:no 1'",
        "data.classes=[cat, 'yes']",
        "distill.patience=2",
        "distill.averaging=best",
    ]
    interrupted(tmp_path / "run", dump_recipe(load_recipe(recipe_file, then)))
    with pytest.raises(RunError) as caught:
        start_run(tmp_path / "run", load_recipe(recipe_file), overwrite=False, resume=True)
    settings = advised(caught.value)
    assert len(settings) == len(then)
    assert load_recipe(recipe_file, settings) == load_recipe(recipe_file, then)
    start_run(tmp_path / "run", load_recipe(recipe_file, settings), overwrite=False, resume=True)


def test_what_was_to_overwrite_a_run_still_does_without_a_checkpoint(
    recipe_file: Path, tmp_path: Path
) -> None:
    recipe, run = load_recipe(recipe_file), tmp_path / "run"
    run.mkdir()
    (run / RECORD).write_text("{}")
    unfinished = start_run(run, recipe, overwrite=True)  # ended before its first checkpoint
    assert is_interrupted_replacement(run)
    assert start_run(run, recipe, overwrite=False, resume=True) == unfinished
    assert is_interrupted_replacement(run)  # ended again: it is not forgotten
