"""`teacher check` of a vendor over HTTP: what it finds, what it pays, and what `embed` then need not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.helpers.fake_vendor import FakeVendor, fake_vendor, read_bill
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.distillation.purchase.probes import PROBES
from vl2v_deploy.models.store.canaries import CANARIES
from vl2v_deploy.recipe import load_recipe

pytest.importorskip("httpx")
KEY = "sk-secret"


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), key=KEY, dimensions=16) as running:
        yield running


@pytest.fixture(scope="module")
def recipe_file(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    return write_vendor_recipe(folder, vendor.url("openai"), key_env="COLOURS_KEY")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, vendor: FakeVendor, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLOURS_KEY", KEY)
    yield
    vendor.control(script=[], faults={}, text_trap=False, dimensions=16, moved=0.0)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["teacher", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert KEY not in result.output
    return result.exit_code, result.stdout, result.stderr


def check(recipe: Path, *more: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Exit code, the JSON object, and the status of each check."""
    code, out, _ = run("check", recipe, "--json", *more)
    tree = json.loads(out.splitlines()[-1])
    return code, tree, {found["check"]: found["status"] for found in tree["checks"]}


def test_a_good_vendor_passes_and_costs_what_was_said(vendor: FakeVendor, recipe_file: Path) -> None:
    before = len(vendor.bill())
    code, tree, status = check(recipe_file, "--images", "12")
    assert (code, set(status.values())) == (0, {"passed"}), tree
    asked = tree["asked_at_most"]
    billed = vendor.bill()[before:]
    images = [item for item in billed if item.kind == "image"]
    assert (asked["images"], asked["texts"]) == (12 + PROBES + 3 + CANARIES, 3 + 1 + CANARIES)
    for kind, count in (("images", len(images)), ("texts", len(billed) - len(images))):
        assert asked[kind] - CANARIES <= count <= asked[kind]
    assert asked["usd"] == pytest.approx((0.5 * asked["images"] + 0.1 * asked["texts"]) / 1000)

    [zero_shot] = [found["numbers"] for found in tree["checks"] if found["check"] == "zero-shot"]
    assert zero_shot["accuracy"] == 1.0 and zero_shot["chance"] == pytest.approx(1 / 3)
    assert 0.7 < zero_shot["low"] < zero_shot["high"] == 1.0


def test_what_stands_twice_in_a_request_is_in_what_was_said(vendor: FakeVendor, recipe_file: Path) -> None:
    """Cohere's answers have no index: probes, canaries, images and images again are requests of their own."""
    before = len(vendor.bill())
    cohere = ("teacher.api=cohere", f"teacher.url={vendor.url('cohere')}", "teacher.batch_size=32")
    _, tree, _ = check(recipe_file, "--images", "18", *(part for each in cohere for part in ("--set", each)))
    images = sum(item.kind == "image" for item in vendor.bill()[before:])
    assert images == tree["asked_at_most"]["images"] == 18 + PROBES + 3 + CANARIES + 4


def test_it_asks_about_no_image_of_the_target_and_embed_pays_none_again(
    vendor: FakeVendor, recipe_file: Path
) -> None:
    """An image that is bought twice would be billed twice by its pixels."""
    before = len(vendor.bill())
    assert check(recipe_file, "--images", "12")[0] == 0
    _, tree, _ = check(recipe_file, "--images", "12")
    assert tree["asked_at_most"]["images"] == PROBES + 3
    estimate = tree["estimate"]
    assert estimate["held"] == 12 and estimate["to_buy"] == estimate["needed"] - 12
    start = len(vendor.bill())
    code, out, _ = run("embed", recipe_file)
    assert code == 0 and f"{estimate['to_buy']} of them bought" in out
    bought = [item.sha256 for item in vendor.bill()[start:] if item.kind == "image"]
    already = {item.sha256 for item in read_bill(vendor.folder)[before:start] if item.kind == "image"}
    assert len(set(bought) - already) == estimate["to_buy"]


def test_the_dry_run_sends_nothing_and_foretells_the_bill(
    vendor: FakeVendor, recipe_file: Path, tmp_path: Path
) -> None:
    requests = vendor.control()["requests"]
    code, out, _ = run("embed", recipe_file, "--dry-run", "--set", "teacher.images_per_minute=10")
    assert (code, vendor.control()["requests"]) == (0, requests)
    domain_set = load_domains(load_recipe(recipe_file).data)
    sources = domain_set.sources("photo")
    needed = sum(len(domain_set.select(sources, split)) for split in ("train", "val", "test"))
    needed += sum(sample.domain == "photo" for sample in domain_set.samples)
    assert f"{needed} image embeddings needed, 0 held, {needed} to buy" in out
    images, texts = needed + CANARIES, 3 + CANARIES
    assert f"to ask: {images} images and {texts} texts for ${(0.5 * images + 0.1 * texts) / 1000:.2f}" in out
    assert f"{images / 10:.0f} min at the given limits" in out


def test_an_image_that_is_taken_as_a_text_is_found_before_the_images_are_bought(
    vendor: FakeVendor, recipe_file: Path
) -> None:
    vendor.control(text_trap=True)
    before = len(vendor.bill())
    code, tree, status = check(recipe_file)
    assert (code, status["images"]) == (1, "failed")
    assert (status["order"], status["zero-shot"]) == ("unknown", "unknown")
    assert len(vendor.bill()) - before == PROBES + 1
    [images] = [found for found in tree["checks"] if found["check"] == "images"]
    assert images["numbers"]["cosine_of_image_and_its_data_url"] == pytest.approx(1.0)
    assert "base64" in images["todo"]


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"script": ["unauthorized"]}, "authentication"),
        ({"script": ["payment_required"]}, "authentication"),
        ({"dimensions": 8}, "dimension"),
    ],
)
def test_a_vendor_that_refuses_or_gives_something_else(
    vendor: FakeVendor, recipe_file: Path, change: dict[str, Any], failed: str
) -> None:
    vendor.control(**change)
    code, tree, status = check(recipe_file)
    assert (code, status[failed]) == (1, "failed"), tree
    assert [name for name, found in status.items() if found == "failed"] == [failed]
    assert status["zero-shot"] == "unknown"
    [todo] = [found["todo"] for found in tree["checks"] if found["status"] == "failed"]
    assert ("teacher.dimensions" in todo) == (failed == "dimension") and todo


def test_a_missing_key_is_a_failed_authentication(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLOURS_KEY")
    code, tree, status = check(recipe_file)
    assert (code, status["authentication"]) == (1, "failed")
    assert "COLOURS_KEY" in tree["checks"][0]["why"]


def test_prompts_of_another_space_cannot_classify(recipe_file: Path) -> None:
    """Texts that name no colour are noise to this vendor."""
    names = "data.class_names={red: circle, blue: square, green: hat}"
    code, _, status = check(recipe_file, "--images", "36", "--set", names)
    assert code == 1 and "failed" in (status["same space"], status["zero-shot"])
    assert status["authentication"] == status["images"] == status["order"] == "passed"


def test_the_budget_ends_a_check_with_its_own_exit_code(vendor: FakeVendor, recipe_file: Path) -> None:
    before = len(vendor.bill())
    budget = ("--set", "teacher.budget={max_queries: 8}")
    code, _, err = run("check", recipe_file, *budget)
    assert code == 3 and "budget" in err
    assert len(vendor.bill()) - before <= 8
    code, out, _ = run("embed", recipe_file, "--dry-run", *budget)
    assert code == 0 and "That is not enough" in out
    result = CliRunner().invoke(cli, ["distill", str(recipe_file), "--dry-run", *budget])
    assert result.exit_code == 0 and result.stdout.startswith(out)
    assert "untrained: fp32 ONNX" in result.stdout[len(out) :]
