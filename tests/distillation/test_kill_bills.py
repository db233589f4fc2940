"""run.json says what the run paid over all its restarts, wherever it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.fake_vendor import fake_vendor
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import ModelError, RunError
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledgers_folder
from vl2v_deploy.models.ledger.spending import spendings
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.run_directory import BILL, CHECKPOINT
from vl2v_deploy.models.store.asked import LOG
from vl2v_deploy.recipe import load_recipe

TRAINED, TESTED = 2 * 15, 2 * 6 + 24  # of two sources and the target; 24 images in each domain


def run_killed(recipe: Path, out: Path, *moments: str) -> list[int]:
    command = [sys.executable, "-m", "tests.helpers.killed_distillers", str(recipe), str(out), *moments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return [int(line) for line in result.stdout.split()]


def assert_no_leftovers(recipe: Path, out: Path) -> None:
    """What a kill after the rename leaves is removed by the next that looks at the run."""
    assert (out / CHECKPOINT).is_file() and (out / BILL).is_file()
    with pytest.raises(RunError, match="exists already"):
        distill_recipe(load_recipe(recipe), out)
    assert not (out / CHECKPOINT).exists() and not (out / BILL).exists()


def test_kill_loses_no_query_of_a_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        recipe = write_vendor_recipe(
            tmp_path / "recipe", vendor.url("openai"), logit_scale=20.0, batch_size=4, concurrency=1
        )
        # Before the first checkpoint, one request in flight there, in the evaluation, and at the very end.
        moments = ("kept-2", "answered-2", "kept-3", "evaluate", "renamed")
        assert run_killed(recipe, out, *moments) == [-9] * len(moments)
        images = [item for item in vendor.bill() if item.kind == "image"]
    [file] = ledgers_folder().glob("*.sqlite")
    entries = Ledger(file, Budget(None, None)).entries()
    canaries = sum(entry.images for entry in entries if not entry.run)
    queries = read_record(out).teacher.queries
    assert queries == TRAINED + TESTED + 4  # those in flight were billed, and asked again
    assert queries == len(images) - canaries and canaries % 16 == 0 < canaries
    assert list(spendings(ledgers_folder(), "run")) == [""]  # nobody is shown a bill's number
    assert_no_leftovers(recipe, out)


def test_kill_loses_no_query_of_a_teacher_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = tiny.write_recipe(tmp_path, make_domain_folder(tmp_path / "data"))
    one, other = tmp_path / "one", tmp_path / "other"
    assert run_killed(recipe, one, "kept-1", "evaluate", "end") == [-9, -9, 0]
    record = read_record(one)
    assert record.teacher.queries == record.teacher.images > 0
    distill_recipe(load_recipe(recipe), other)  # all is held: another run is another bill
    assert read_record(other).teacher.queries == 0
    assert not (one / BILL).exists() and not (one / CHECKPOINT).exists()
    assert_odd_log_stops_a_run_at_its_start(recipe, tmp_path)


def assert_odd_log_stops_a_run_at_its_start(recipe: Path, folder: Path) -> None:
    """Before it looks up a single embedding, let alone trains."""
    [log] = (folder / "cache").rglob(LOG)
    with log.open("a") as file:
        file.write("{}\n")
    before = log.read_text()
    with pytest.raises(ModelError, match=rf"line {len(before.splitlines())}: is damaged"):
        distill_recipe(load_recipe(recipe), folder / "third")
    assert log.read_text() == before
