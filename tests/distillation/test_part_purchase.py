"""`teacher embed --part` and `teacher merge`: parts buy what one run buys, and merge to its store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.models.store import merging
from vl2v_deploy.models.store.shards import read_keys, read_rows, split_keys, write_shard
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import load_recipe

pytest.importorskip("httpx")
PARTS = 3


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), dimensions=16) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(vendor: FakeVendor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vendor_recipe(tmp_path_factory.mktemp("recipe"), vendor.url("openai"))


@pytest.fixture(scope="module")
def bought(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of one run, `whole`, and those of parts, `part-1` and so on."""
    folder = tmp_path_factory.mktemp("stores")
    ok(run(folder / "whole", "embed", str(recipe)))
    for part in range(1, PARTS + 1):
        ok(run(folder / f"part-{part}", "embed", str(recipe), "--part", f"{part}/{PARTS}"))
    return folder


@pytest.fixture
def stores(bought: Path, tmp_path: Path) -> list[Path]:
    """Copies of the parts' stores."""
    return [Path(shutil.copytree(store, tmp_path / store.name)) for store in sorted(bought.glob("part-*"))]


def run(store: Path, *words: str) -> Result:
    return CliRunner(env={"VL2V_DEPLOY_CACHE": str(store)}).invoke(cli, ["teacher", *words])


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def merge(stores: list[Path], into: Path, *more: str) -> Result:
    return run(into, "merge", *map(str, stores), *more)


def held(store: Path) -> dict[bytes, torch.Tensor]:
    """Key -> embedding; each key is in one shard."""
    found = [
        (key, row)
        for shard in store.glob("embeddings/*/*.safetensors")
        for key, row in zip(
            split_keys(read_keys(shard)),
            read_rows(shard, range(len(read_keys(shard)) // 32)),
            strict=True,
        )
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def stats(store: Path) -> dict[str, float]:
    return dict(json.loads(ok(run(store, "stats", "--json"))))


def test_parts_buy_what_one_run_buys_each_image_once_and_merge_to_it(
    bought: Path, stores: list[Path], tmp_path: Path
) -> None:
    whole, into = bought / "whole", tmp_path / "all"
    parts = [held(store) for store in stores]
    assert all(parts) and sum(map(len, parts)) == len(held(whole))  # so no image is in two parts
    ok(merge(stores, into))
    one, merged = held(whole), held(into)
    assert merged.keys() == one.keys() and all(torch.equal(merged[key], one[key]) for key in one)

    counted = stats(into)
    assert counted["misses"] == stats(whole)["misses"] > 0
    for name in ("misses", "hits", "embeddings", "paid_queries", "paid_usd"):
        assert counted[name] == pytest.approx(sum(stats(store)[name] for store in stores)), name
    ok(merge(stores, into))
    assert stats(into) == counted and len(held(into)) == len(one)


def test_what_is_merged_in_two_ways_counts_once(stores: list[Path], recipe: Path, tmp_path: Path) -> None:
    """A part is resumed after a merge, and a merged store is merged again, beside its parts."""
    half, into = tmp_path / "half", tmp_path / "all"
    ok(merge(stores[:2], half))
    ok(run(stores[0], "embed", str(recipe), "--part", f"2/{PARTS}"))  # what the other one has bought too
    ok(merge([half, *stores], into, "--recipe", str(recipe)))
    spent = sum(stats(store)["paid_queries"] for store in stores)
    assert stats(into)["paid_queries"] == spent
    assert stats(into)["misses"] == sum(stats(store)["misses"] for store in stores)
    assert len(held(into)) < stats(into)["misses"] + 20  # what was paid twice is held once


@pytest.mark.parametrize(
    ("step", "before"), [("_add", 1), ("merge_asked", 1), ("copy_canaries", 2), ("merge_ledger", 2)]
)
def test_a_merge_that_was_cut_short_is_done_by_running_it_again(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: int
) -> None:
    """It ends after `before` calls of a step: what is on disk then is what a killed one leaves."""
    undisturbed, into = tmp_path / "undisturbed", tmp_path / "all"
    ok(merge(stores, undisturbed))
    done, calls = getattr(merging, step), 0

    def cut_short(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > before:
            raise RuntimeError("cut short")
        return done(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(merging, step, cut_short)
        assert str(merge(stores, into).exception) == "cut short"
    assert (into / "embeddings").is_dir()
    ok(merge(stores, into))
    one, merged = held(undisturbed), held(into)
    assert merged.keys() == one.keys() and all(torch.equal(merged[key], one[key]) for key in one)
    assert stats(into) == stats(undisturbed)


def test_a_merged_store_is_asked_nothing_more(
    stores: list[Path], recipe: Path, vendor: FakeVendor, tmp_path: Path
) -> None:
    ok(merge(stores, tmp_path / "all"))
    paid = vendor.bill()
    assert " 0 of them bought" in ok(run(tmp_path / "all", "embed", str(recipe)))
    assert vendor.bill() == paid
    told = ok(run(tmp_path / "new", "embed", str(recipe), "--part", f"1/{PARTS}", "--dry-run"))
    assert vendor.bill() == paid and told


def test_a_damaged_part_is_refused_by_name_and_nothing_is_merged(stores: list[Path], tmp_path: Path) -> None:
    shard = next(stores[1].glob("embeddings/*/*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)
    for _ in range(2):  # it is set aside, and missed the second time
        refused = merge(stores, tmp_path / "all")
        assert refused.exit_code == 1 and f"{stores[1]}: is damaged" in refused.output
        assert not held(tmp_path / "all")


def test_a_part_of_another_teacher_is_refused_by_name(
    stores: list[Path], recipe: Path, tmp_path: Path
) -> None:
    [folder] = stores[2].glob("embeddings/*")
    shutil.copytree(folder, stores[2] / "embeddings" / "another@1")
    into = tmp_path / "all"
    refused = merge(stores, into)
    assert refused.exit_code == 1 and f"another@1 in {stores[2]}" in refused.output
    folder.rename(tmp_path / "aside")
    refused = merge(stores, into, "--recipe", str(recipe))
    assert refused.exit_code == 1 and f"{stores[2]}: is no store with embeddings of" in refused.output
    assert not held(into)
    (tmp_path / "aside").rename(folder)
    ok(merge(stores, into, "--recipe", str(recipe)))  # which picks the teacher's
    assert [found.name for found in (into / "embeddings").iterdir()] == [folder.name]


def test_other_answers_widths_and_versions_are_refused(
    stores: list[Path], recipe: Path, tmp_path: Path
) -> None:
    dim = load_teacher(load_recipe(recipe).teacher).embedding_dim
    [folder] = stores[0].glob("embeddings/*")
    key = next(iter(held(stores[1])))
    strange = folder / "strange.safetensors"
    write_shard(strange, key, torch.nn.functional.normalize(torch.randn(1, dim), dim=1))
    assert "another model was behind the same name" in merge(stores, tmp_path / "all").output
    write_shard(strange, key, torch.nn.functional.normalize(torch.randn(1, dim + 1), dim=1))
    assert f"embeddings of {dim + 1} numbers" in merge(stores[:1], tmp_path / "all").output
    strange.unlink()
    record = folder / "canaries" / "image.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"version": "2"}))
    assert "several versions" in merge(stores, tmp_path / "all").output
    assert not held(tmp_path / "all")


def test_a_part_goes_with_no_budget(recipe: Path, tmp_path: Path) -> None:
    assert (
        "--part goes with none"
        in run(tmp_path, "embed", str(recipe), "--part", "1/2", "--budget", "3").output
    )
    assert "expected i/N" in run(tmp_path, "embed", str(recipe), "--part", "3/2").output


# Children are forked, so that the imports are paid once: argv = what to do, and its arguments.
FORKING = """
import os, signal, sys
from pathlib import Path
from vl2v_deploy.bulk.parts import Part
from vl2v_deploy.distillation.purchase.ahead import embed_ahead
from vl2v_deploy.models.store import canaries, merging
from vl2v_deploy.recipe import load_recipe

def forked(act, *args):
    pid = os.fork()
    if pid == 0:
        try:
            act(*args)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid

def ends(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

def part(number, of):
    embed_ahead(load_recipe(Path(sys.argv[2])), Part(number, of), skip_bad=False)

def merge(killed_at=None):
    steps = iter(range(10**6))
    def counted(function):
        def call(*args, **more):
            if next(steps) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **more)
        return call
    for name in ("write_shard", "merge_asked", "copy_canaries", "merge_ledger"):
        setattr(merging, name, counted(getattr(merging, name)))
    canaries._write = counted(canaries._write)
    merging.merge_stores([Path(store) for store in sys.argv[3:]], Path(sys.argv[2]))

if sys.argv[1] == "parts":
    of = int(sys.argv[3])
    assert ends([forked(part, number, of) for number in range(1, of + 1)]) == [0] * of
elif sys.argv[1] == "at once":
    assert ends([forked(merge) for _ in range(4)]) == [0] * 4
else:
    kills = 0
    while (end := ends([forked(merge, kills)])) == [-signal.SIGKILL]:
        kills += 1
    assert end == [0]
    print(kills)
"""


def forking(store: Path, *args: object) -> str:
    """What the script says, with `store` as this machine's."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING, *map(str, args)],
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(store)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


def test_jobs_of_all_parts_at_once_fill_one_store_and_pay_for_each_image_once(
    bought: Path, recipe: Path, vendor: FakeVendor, tmp_path: Path
) -> None:
    paid, whole = len(vendor.bill()), stats(bought / "whole")
    forking(tmp_path, "parts", recipe, PARTS)
    assert held(tmp_path).keys() == held(bought / "whole").keys()
    assert stats(tmp_path)["misses"] == whole["misses"]
    again = 2 * 16 * (PARTS - 1)  # the canaries, which a job asks about again if another has begun the store
    assert whole["misses"] < stats(tmp_path)["paid_queries"] <= whole["paid_queries"] + again
    assert len(vendor.bill()) - paid == stats(tmp_path)["paid_queries"]


def test_merges_at_once_into_one_store_are_one_merge(stores: list[Path], tmp_path: Path) -> None:
    forking(tmp_path, "at once", tmp_path / "all", *stores)
    ok(merge(stores, tmp_path / "alone"))
    assert stats(tmp_path / "all") == stats(tmp_path / "alone")
    assert held(tmp_path / "all").keys() == held(tmp_path / "alone").keys()


def test_a_merge_that_is_killed_at_each_of_its_steps_is_done_by_the_next(
    stores: list[Path], tmp_path: Path
) -> None:
    kills = int(forking(tmp_path, "killed", tmp_path / "all", *stores))
    assert kills > 3 * len(stores)  # shards, logs, canaries, ledgers
    ok(merge(stores, tmp_path / "alone"))
    assert stats(tmp_path / "all") == stats(tmp_path / "alone")
    one, other = held(tmp_path / "all"), held(tmp_path / "alone")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
