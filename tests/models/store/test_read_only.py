"""A cache that cannot be written is used for what it holds; what it lacks is an error that names it."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.helpers.buyer import WritingTeacher
from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.read_only import read_only
from tests.helpers.vendor_recipe import write_vendor_recipe
from tests.models.store.test_journal import DIM, answer, written
from tests.models.test_vendor_money import make_images
from vl2v_deploy.benchmarking.measure.answers import ask_teacher
from vl2v_deploy.cli.main import cli
from vl2v_deploy.data import database
from vl2v_deploy.data.content import read_contents
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import DataError, ModelError
from vl2v_deploy.models.ledger.ledger import Budget, Ledger
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.store.disk import DiskRefusal
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.recipe import load_recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path / "vendor", dimensions=16) as started:
        yield started


def test_disk_read_only_is_what_the_helper_makes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with read_only(tmp_path):
        for write in ((tmp_path / "new").touch, lambda: (tmp_path / "file").write_text("x")):
            with pytest.raises(PermissionError):
                write()
    (tmp_path / "new").touch()


def test_disk_read_only_with_all_that_is_needed_is_used(
    cache: Path, vendor: FakeVendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_vendor_recipe(tmp_path / "recipe", vendor.url("openai"), logit_scale=20.0)
    recipe = load_recipe(file)
    distill_recipe(recipe, tmp_path / "first")
    bill = len(vendor.bill())
    domains = load_domains(recipe.data)
    prompts = class_prompts(recipe.prompts, recipe.data, domains.classes, domains.domains, recipe.data.target)
    samples = {domain: domains.select({domain}, "test") for domain in domains.domains}
    gc.collect()  # the first run's ledger writes its log back when it is closed
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    capfd.readouterr()
    with read_only(cache):
        distill_recipe(recipe, tmp_path / "second")
        answers = ask_teacher(recipe.teacher, prompts, 20.0, samples, "cpu")
        by_teacher = CliRunner().invoke(cli, ["teacher", "stats", "--json"])
        by_run = CliRunner().invoke(cli, ["teacher", "stats", "--by", "run"])
    said = capfd.readouterr().err + by_teacher.stderr + by_run.stderr
    assert read_record(tmp_path / "second").teacher.queries == answers.queries == 0
    assert by_teacher.exit_code == by_run.exit_code == 0, by_teacher.output
    [row] = [json.loads(line) for line in by_teacher.stdout.splitlines()]
    assert row["paid_queries"] == bill > 0 and row["embeddings"] > 0
    assert said.count("is read-only") == 1 and str(cache) in said
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert len(vendor.bill()) == bill


def test_disk_read_only_that_lacks_something_is_named_and_nothing_is_asked(
    cache: Path, vendor: FakeVendor, tmp_path: Path
) -> None:
    file = write_vendor_recipe(tmp_path / "recipe", vendor.url("openai"), logit_scale=20.0)
    distill_recipe(load_recipe(file), tmp_path / "first")
    bill = len(vendor.bill())
    with read_only(cache), pytest.raises(ModelError, match="read-only, and does not hold all") as caught:
        distill_recipe(load_recipe(file, ["teacher_views=1"]), tmp_path / "second")
    assert "\n" not in str(caught.value) and str(cache) in str(caught.value)
    assert len(vendor.bill()) == bill


def test_disk_read_only_with_a_journal_is_read(tmp_path: Path) -> None:
    """As a killed purchase left it, on a disk that was then mounted read-only."""
    store = tmp_path / "store" / "w@1"
    store.mkdir(parents=True)
    paths = make_images(tmp_path / "images", 2)
    (path, answers), teacher = written(store), WritingTeacher(tmp_path / "paid.txt")
    with read_only(tmp_path / "store"):
        held = EmbeddingStore(tmp_path / "store", teacher)._held
        keys = [key for found, _ in answers for key in found]
        rows = held.rows(keys)
        assert rows is not None and torch.equal(rows, torch.cat([rows for _, rows in answers]))
        assert held.rows(answer(900, 1)[0]) is None and path.exists()
        with pytest.raises(DiskRefusal):
            EmbeddingStore(tmp_path / "store", teacher).embed(paths, "")
    assert not teacher.paid.exists() and rows.shape[1] == DIM


def test_disk_read_only_ledger_says_what_it_says(tmp_path: Path) -> None:
    """Also what is only in its write-ahead log, of a process that still has it open."""
    folder = tmp_path / "ledgers"
    ledger = Ledger(folder / "a.sqlite", Budget(None, None))
    ledger.settle(ledger.reserve("t", images=3, texts=0, usd=0.5), images=3, texts=0, usd=0.5)
    expected = ledger.entries()
    with read_only(folder):
        assert Ledger(folder / "a.sqlite", Budget(None, None)).entries() == expected
        with pytest.raises(ModelError, match="cannot be used"):
            Ledger(folder / "a.sqlite", Budget(None, None)).reserve("t", images=1, texts=0, usd=0.1)


def test_disk_read_only_or_full_is_no_bar_to_looking_at_images(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(tmp_path / "images", 40)
    with read_only(cache):  # without the database
        first = read_contents(paths)
    assert "cannot be written" in capfd.readouterr().err and not list(cache.iterdir())
    read_contents(paths[:1])
    with read_only(cache):
        assert read_contents(paths) == first
    assert "is read-only" in capfd.readouterr().err
    made = database._with_tables

    def no_larger(opened: sqlite3.Connection) -> sqlite3.Connection:
        opened.execute("PRAGMA max_page_count = 1")  # SQLite then says what it says of a full disk
        return opened

    monkeypatch.setattr(database, "_with_tables", lambda opened: no_larger(made(opened)))
    assert read_contents(paths) == first
    assert "database or disk is full" in capfd.readouterr().err


def test_disk_without_a_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "closed" / "cache"))
    (tmp_path / "closed").mkdir()
    with read_only(tmp_path / "closed"), pytest.raises(DataError, match="set VL2V_DEPLOY_CACHE"):
        read_contents([])
