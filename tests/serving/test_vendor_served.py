"""A teacher behind `teacher serve`, asked over both of its APIs by the teacher of kind http."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.helpers.served import coloured_images, served
from tests.helpers.teachers import ColourTeacher
from tests.helpers.tiny import write_recipe
from tests.helpers.vendor_recipes import KEY, KEY_ENV, billed, vendor_recipe, vendor_teacher
from vl2v_deploy.cli.main import cli
from vl2v_deploy.errors import VendorError
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import load_recipe

TEXTS = ["a photo of a cat", "ink", "der Hund läuft"]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(ColourTeacher(), key=KEY) as url:
        yield url


@pytest.mark.parametrize("api", ["openai", "kserve"])
def test_embeddings_are_the_local_teachers_own(url: str, api: str, tmp_path: Path) -> None:
    own, images = ColourTeacher(), coloured_images(50)
    recipe = vendor_recipe(api, url, model="colour", dimensions=8, batch_size=7, key_env=KEY_ENV)
    teacher, ledger = vendor_teacher(tmp_path, recipe)
    torch.testing.assert_close(teacher.embed_images(images), own.embed_images(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(teacher.embed_texts(TEXTS), own.embed_texts(TEXTS), atol=1e-6, rtol=0)
    # without an index one item of each request is sent twice
    assert billed(ledger) == ((50, 3) if api == "openai" else (50 + 9, 3 + 1))


@pytest.mark.parametrize("api", ["openai", "kserve"])
def test_another_teacher_behind_the_same_name_is_seen(url: str, api: str, tmp_path: Path) -> None:
    versions = []
    for seed in (0, 1):
        with served(ColourTeacher(seed)) as other:
            teacher, _ = vendor_teacher(
                tmp_path / str(seed), vendor_recipe(api, other, model="colour", dimensions=8)
            )
            teacher.embed_texts(TEXTS)
            versions.append(teacher.answered_version)
    assert None not in versions and versions[0] != versions[1]


def test_limits_of_the_server_slow_a_purchase_down_and_lose_nothing(tmp_path: Path) -> None:
    own, images = ColourTeacher(), coloured_images(80)
    with served(own, images_per_minute=1200.0, max_queue=8) as url:
        recipe = vendor_recipe("openai", url, model="colour", dimensions=8, batch_size=4, concurrency=8)
        teacher, ledger = vendor_teacher(tmp_path, recipe)
        torch.testing.assert_close(teacher.embed_images(images), own.embed_images(images), atol=1e-6, rtol=0)
    assert sum(entry.images for entry in ledger.entries() if entry.state == "settled") == 80


def test_a_wrong_key_stops(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, "sk-wrong")
    recipe = vendor_recipe("openai", url, model="colour", dimensions=8, key_env=KEY_ENV)
    teacher, ledger = vendor_teacher(tmp_path, recipe)
    with pytest.raises(VendorError) as error:
        teacher.embed_images(coloured_images(4))
    assert (error.value.status, billed(ledger)) == (401, (0, 0))


VENDOR = """teacher:
  kind: http
  api: openai
  url: {url}
  model: tiny
  dimensions: 16
  image: {{size_px: 32}}
  batch_size: 8
  usd_per_1k_images: 1.0
  usd_per_1k_texts: 0.5
  terms: {{url: "http://127.0.0.1", read_on: 2026-11-28, permits: internal}}
  logit_scale: {logit_scale}
"""


@pytest.mark.slow
def test_a_student_distilled_from_it_is_that_of_the_local_teacher(
    domain_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    local = write_recipe(tmp_path, domain_folder)
    own = load_teacher(load_recipe(local).teacher)
    lines = local.read_text().splitlines(keepends=True)
    with served(own, "tiny") as url:
        vendor = tmp_path / "vendor.yaml"
        section = VENDOR.format(url=url, logit_scale=own.logit_scale)
        vendor.write_text("".join(section if line.startswith("teacher:") else line for line in lines))
        for recipe in (local, vendor):
            result = CliRunner().invoke(cli, ["distill", str(recipe), "--out", str(tmp_path / recipe.stem)])
            assert result.exit_code == 0, (result.output, result.exception)
    of_local, of_vendor = (load_run(tmp_path / recipe.stem) for recipe in (local, vendor))
    torch.testing.assert_close(of_vendor.text_emb, of_local.text_emb, atol=1e-6, rtol=0)
    assert of_vendor.record.accuracy == of_local.record.accuracy
    assert of_vendor.record.metrics.keys() == of_local.record.metrics.keys()
    assert of_vendor.record.teacher.queries == of_local.record.teacher.queries > 0
    weights = of_vendor.student.state_dict()
    for name, weight in of_local.student.state_dict().items():
        torch.testing.assert_close(weights[name], weight, atol=1e-3, rtol=1e-3, msg=name)
