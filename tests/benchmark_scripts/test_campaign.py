"""The campaign of hostile inputs: it counts rightly, and a few seconds of each part find nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.campaign.run import parts
from benchmarks.campaign.workers import run_part
from tests.helpers.campaign_part import ending_of

ROOT = Path(__file__).parents[2]
PART = "tests.helpers.campaign_part"


def test_the_campaign_counts_hostile_attempts_and_goes_on_after_them() -> None:
    seed, count = 106, 9
    expected = Counter(ending_of(seed, number) for number in range(count))
    assert len(expected) == 7  # every ending is among them
    counts = run_part(PART, seed, count, cpu_s=1)
    assert (counts.attempts, counts.ok, counts.documented) == (count, expected["ok"], expected["refused"])
    assert counts.foreign == expected["foreign"] + expected["too large"] + expected["unprintable"]
    assert (counts.crashed, counts.hung) == (expected["crashed"], expected["hung"])
    assert not counts.clean
    told = dict(counts.errors)
    assert all(ending_of(seed, number) not in ("ok", "refused") for number in told)
    assert any("KeyError" in words and "campaign_part.py:" in words for words in told.values())
    [first] = [number for number in range(count) if ending_of(seed, number) == "refused"][:1]
    assert run_part(PART, seed, 1, first=first).documented == 1  # an attempt is the same one again


def test_a_part_that_cannot_begin_is_told() -> None:
    with pytest.raises(RuntimeError, match="no attempt began"):
        run_part("tests.helpers.no_such_part", 0, 1)


@pytest.mark.parametrize(("part", "count"), [("recipes", 60), ("bundles", 40)])
def test_a_few_hostile_attempts_of_each_part_find_nothing(part: str, count: int) -> None:
    counts = parts()[part](20_261_128, count)
    assert counts.clean, counts.errors
    assert counts.attempts == count and counts.ok > 0 and counts.documented > 0


def test_the_hostile_campaign_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "campaign.json"
    command = [sys.executable, "-m", "benchmarks.campaign.run", "--part", "recipes", "--minutes", "0"]
    subprocess.run([*command, "--batch", "5", "--out", str(out)], cwd=ROOT, check=True)
    result = json.loads(out.read_text())
    assert result["parts"]["recipes"]["attempts"] == 5 and result["seeds"] == [0, 0]
