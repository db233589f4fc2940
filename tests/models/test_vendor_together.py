"""Two processes that buy from a vendor at once, with one store, ledger and pacer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.fake_vendor import fake_vendor
from tests.helpers.killed_buyers import BATCH, buy
from tests.models.test_vendor_money import (
    assert_all_held,
    assert_ledger_is_true,
    billed_images,
    ledger_sums,
    make_images,
)

IMAGES, A_MINUTE = 300, 6000


def buy_in_two_processes(root: Path, url: str, max_queries: int) -> list[tuple[bool, int]]:
    """Of each process whether the budget was spent, and how many images it sent."""
    command = [sys.executable, "-m", "tests.helpers.buyers_at_once", str(root), url, "2"]
    command += [str(max_queries), str(A_MINUTE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [(spent, queries) for spent, queries in json.loads(done.stdout)]


def test_vendor_two_processes_share_a_purchase_and_never_pass_the_budget(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "images", IMAGES)
    settings = {"dimensions": 16, "images_per_minute": A_MINUTE, "latency_s": 0.1}  # many are in flight
    with fake_vendor(tmp_path / "vendor", **settings) as vendor:
        url = vendor.url("openai")

        # the budget ends both, wherever they are
        sent = buy_in_two_processes(tmp_path, url, 150)
        assert [spent for spent, _ in sent] == [True, True] and min(queries for _, queries in sent) > 0
        bill = len(vendor.bill())
        assert 150 - 2 * BATCH < bill <= 150
        assert ledger_sums(tmp_path) == {"settled": bill}  # nothing failed: nothing is unknown
        images = billed_images(vendor, tmp_path)
        assert set(images.values()) == {1} and images.total() == sum(queries for _, queries in sent)

        # with more, they share the rest
        more = buy_in_two_processes(tmp_path, url, 10_000)
        assert [spent for spent, _ in more] == [False, False]
        assert sum(queries for _, queries in sent + more) == IMAGES
        assert set(billed_images(vendor, tmp_path).values()) == {1}
        sums = assert_ledger_is_true(vendor, tmp_path, paths)
        assert sums == {"settled": len(vendor.bill())}
        assert vendor.control()["rate_limited"] == 0  # both kept to one pace
        buy(tmp_path, url)
        assert_all_held(vendor, tmp_path, paths)
        assert not list((tmp_path / "store").rglob("*.journal"))
