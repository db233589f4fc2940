"""The recipe that `init --teacher` writes: valid once the user has filled in what only they can know."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.starter import starter_recipe
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.names import command
from vl2v_deploy.recipe import APIS, Api, HttpRecipe, load_recipe

ASKED = {
    "teacher.usd_per_1k_images": "0.1",
    "teacher.usd_per_1k_texts": "0.02",
    "teacher.terms.url": "https://example.com/terms",
    "teacher.terms.read_on": "2026-11-28",
    "teacher.terms.permits": "internal",
}
OWN_SERVER = {"teacher.model": "clip", "teacher.dimensions": "512"}


def test_init_says_what_comes_next(domain_folder: Path, tmp_path: Path) -> None:
    for teacher, following in (("jina", "fill in what is BLANK"), ("open_clip", "vl2v-deploy distill")):
        file = tmp_path / f"{teacher}.yaml"
        said = CliRunner().invoke(cli, ["init", str(domain_folder), "--teacher", teacher, "--out", str(file)])
        assert said.exit_code == 0 and following in said.output
    assert "How long that takes" in said.output  # of the local teacher's, which can be tried at once
    assert said.output.splitlines()[-1].endswith(command("distill", file, "--dry-run"))


@pytest.mark.parametrize("api", APIS)
def test_http_starter_names_exactly_what_is_left_to_fill_in(
    api: Api, domain_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(starter_recipe(domain_folder, None, file, api)[0])
    asked = ASKED | (OWN_SERVER if api in ("openai", "vllm", "kserve") else {})
    with pytest.raises(RecipeError) as refused:
        load_recipe(file, ())
    lines = str(refused.value).splitlines()
    assert {line.split(": ")[1] for line in lines} == asked.keys()
    assert all("is blank" in line for line in lines)
    teacher = load_recipe(file, [f"{field}={value}" for field, value in asked.items()]).teacher
    assert isinstance(teacher, HttpRecipe) and teacher.api == api
    assert teacher.budget.max_usd is not None  # a first run cannot cost whatever it likes


def test_starter_with_a_local_teacher_needs_nothing(domain_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(starter_recipe(domain_folder, None, file)[0])
    assert load_recipe(file, ()).teacher.kind == "open_clip"
    assert yaml.safe_load(file.read_text())["teacher"] == {"model": "ViT-B-16", "pretrained": "openai"}


def test_starter_with_an_unknown_teacher(domain_folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"expected one of open_clip, openai.*did you mean 'jina'"):
        starter_recipe(domain_folder, None, None, "jinna")
