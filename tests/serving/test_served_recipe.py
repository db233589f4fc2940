"""recipes/vendor.yaml against `teacher serve recipes/quickstart.yaml`: the student of the local teacher."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.helpers.quickstart import ROOT, part_of_emojidg
from vl2v_deploy.cli.main import cli
from vl2v_deploy.models.run_directory import Run, load_run
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import HttpRecipe, load_recipe

LOCAL, VENDOR = ROOT / "recipes/quickstart.yaml", ROOT / "recipes/vendor.yaml"


@contextmanager
def serving() -> Iterator[str]:
    command = [sys.executable, "-m", "vl2v_deploy", "teacher", "serve", str(LOCAL), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.kill()


def test_it_is_the_quickstart_but_for_its_teacher() -> None:
    local, vendor = load_recipe(LOCAL), load_recipe(VENDOR)
    assert vendor.model_copy(update={"teacher": local.teacher}) == local


@pytest.mark.long
def test_the_student_is_that_of_the_local_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    data = part_of_emojidg(tmp_path / "data")
    smaller = [f"data.root={data}", "align.steps=40", "distill.steps=25", "distill.batch_per_domain=8"]
    with serving() as url:
        recipe = load_recipe(VENDOR, [f"teacher.url={url}"]).teacher
        assert isinstance(recipe, HttpRecipe)
        own, vendor = load_teacher(load_recipe(LOCAL).teacher), load_teacher(recipe)
        [served] = httpx.get(f"{url}/models").json()["data"]
        assert (served["id"], served["dimensions"]) == (recipe.model, recipe.dimensions)
        assert served["image_size_px"] == recipe.image.size_px
        assert served["logit_scale"] == recipe.logit_scale == own.logit_scale
        images = [Image.open(path) for path in sorted(data.rglob("*.webp"))[::10]]
        assert len(images) > 50
        answers = vendor.embed_images(images), own.embed_images(images)
        torch.testing.assert_close(*answers, atol=1e-6, rtol=0)
        runs = [
            distilled(tmp_path / "local", LOCAL, smaller),
            distilled(tmp_path / "vendor", VENDOR, [*smaller, f"teacher.url={url}"]),
        ]
    torch.testing.assert_close(runs[1].text_emb, runs[0].text_emb, atol=1e-6, rtol=0)
    assert runs[1].record.accuracy == runs[0].record.accuracy
    assert runs[1].record.teacher.queries == runs[0].record.teacher.queries > 0


def distilled(out: Path, recipe: Path, settings: list[str]) -> Run:
    options = [word for setting in settings for word in ("--set", setting)]
    result = CliRunner().invoke(cli, ["distill", str(recipe), "--out", str(out), *options])
    assert result.exit_code == 0, (result.output, result.exception)
    return load_run(out)
