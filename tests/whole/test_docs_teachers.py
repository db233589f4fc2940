"""docs/teachers.md: its recipe sections load, and its Python runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.recipe import load_recipe, teacher_from_tree

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


def test_its_recipe_sections_load() -> None:
    kinds = [teacher_from_tree(yaml.safe_load(block)["teacher"]).kind for block in blocks("yaml")]
    assert kinds == ["open_clip", "transformers", "precomputed", "http"]


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    make_domain_folder(tmp_path / "pictures")
    short = ["teacher={kind: python}", "align.steps=2", "distill.steps=2"]
    tiny = load_recipe(write_recipe(tmp_path / "tiny", tmp_path / "pictures"), short)
    Path("recipe.yaml").write_text(yaml.safe_dump(tiny.model_dump(mode="json")))
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "a block of docs_teachers.md", "exec"), names)
    assert set(np.load("images.npz").files) == {"path", "embedding"}
    assert names["run"].record.teacher.identity == names["MeanColour"].identity
