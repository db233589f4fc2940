"""A vendor's student after its run: relabelled, and measured beside the teacher, within the same budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.benchmarking.measure.answers import ask_teacher
from vl2v_deploy.benchmarking.measure.images import load_images, prompts_of
from vl2v_deploy.benchmarking.run import why_not_timed
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import open_bundle
from vl2v_deploy.distillation.purchase.ahead import embed_ahead
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import BenchmarkError, BudgetError
from vl2v_deploy.exporting.finished.relabel import relabel_bundle
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledger_file, ledgers_folder
from vl2v_deploy.models.ledger.spending import spendings
from vl2v_deploy.models.record import read_record
from vl2v_deploy.recipe import load_recipe

pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), dimensions=16) as running:
        yield running


def test_what_a_run_bought_is_not_paid_again_by_what_comes_after(
    vendor: FakeVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(write_vendor_recipe(tmp_path, vendor.url("openai")))
    embed_ahead(recipe)
    paid = vendor.bill()
    [run] = distill_recipe(recipe, tmp_path / "run")
    assert vendor.bill() == paid  # neither an image nor a text
    export_run(run, tmp_path / "bundle", ExportOptions(), overwrite=False)
    bundle, record = open_bundle(tmp_path / "bundle"), read_record(run)
    assert bundle.manifest.logit_scale == record.logit_scale and record.logit_scale_images

    # benchmark --teacher: zero-shot with the run's scale, from answers that are held
    images = load_images(bundle, recipe, None, skip_bad=False, max_images=None)
    prompts = prompts_of(bundle, recipe, images.domain_set.domains)
    told = ask_teacher(recipe.teacher, prompts, bundle.manifest.logit_scale, images.samples, "cpu")
    assert (told.queries, vendor.bill()) == (0, paid)
    for domain, measured in images.record.domains.items():
        right = [a == b for a, b in zip(told.predictions[domain].labels, measured.labels, strict=True)]
        assert sum(right) / len(right) == record.accuracy.teacher[domain]
    assert "timing it needs" in (why_not_timed(recipe.teacher) or "")

    # relabel: a new text is bought, once
    (tmp_path / "classes.txt").write_text("red\nyellow\n")
    options = ["--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "yellow")]
    result = CliRunner().invoke(cli, ["relabel", str(bundle.path), *options])
    assert result.exit_code == 0, result.output
    bought = vendor.bill()[len(paid) :]
    spent = spendings(ledgers_folder(), "run")
    assert spent["yellow"].paid_queries == len(bought) and spent[""].paid_queries == len(paid)
    texts = {item.sha256 for item in bought if item.kind == "text"}
    known = {item.sha256 for item in paid if item.kind == "text"}
    assert len(texts - known) == 1
    relabel_bundle(bundle.path, tmp_path / "classes.txt", tmp_path / "again")
    assert len(vendor.bill()) == len(paid) + len(bought)

    (tmp_path / "more.txt").write_text("red\nwhite\n")
    budget = [f"teacher.budget={{max_queries: {len(paid)}}}"]
    with pytest.raises(BudgetError):
        relabel_bundle(bundle.path, tmp_path / "more.txt", tmp_path / "more", overrides=budget)
    assert len(vendor.bill()) == len(paid) + len(bought)
    assert not (tmp_path / "more").exists()

    # benchmark: what it asks is booked on the bundle
    def ask(*_: object, **__: object) -> None:
        ledger = Ledger(ledger_file("vendor.test", None), Budget(None, None))
        ledger.settle(ledger.reserve("t", images=7, texts=0, usd=0.1), images=7, texts=0, usd=0.1)
        raise BenchmarkError("asked enough")

    monkeypatch.setattr("vl2v_deploy.api.benchmark", ask)
    result = CliRunner().invoke(cli, ["benchmark", str(bundle.path), "--teacher"])
    assert isinstance(result.exception, SystemExit) and "asked enough" in result.output
    assert spendings(ledgers_folder(), "run")["bundle"].paid_queries == 7


def test_a_second_distillation_sends_nothing(
    vendor: FakeVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(write_vendor_recipe(tmp_path, vendor.url("openai")), ["teacher_views=2"])
    before = len(vendor.bill())
    first, second = (read_record(distill_recipe(recipe, tmp_path / name)[0]) for name in ("first", "second"))
    assert first.teacher.queries > 0 == second.teacher.queries
    bought = Counter(item.sha256 for item in vendor.bill()[before:])
    distill_recipe(recipe, tmp_path / "third")
    assert Counter(item.sha256 for item in vendor.bill()[before:]) == bought
    assert first.accuracy.teacher == second.accuracy.teacher
