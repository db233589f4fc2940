"""The campaign of hostile inputs: it counts rightly, and a few seconds of each part find nothing."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.campaign import tally
from benchmarks.campaign.run import main, run_turn
from benchmarks.campaign.workers import run_part
from tests.helpers.campaign_part import ending_of

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
    counts = run_turn(part, 20_261_128, count)
    assert not counts["errors"], counts["errors"]
    assert counts["attempts"] == count == counts["ok"] + counts["documented"]
    assert counts["ok"] > 0 and counts["documented"] > 0


def sitting(*options: str) -> Result:
    return CliRunner().invoke(main, options)


def test_the_hostile_campaign_goes_on_in_a_second_sitting_with_new_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tally.GOALS, "recipes", 10)
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    begun = ("--part", "recipes", "--minutes", "0", "--batch", "4")
    assert sitting(*begun, "--seed", "7", "--out", str(first)).exit_code == 0
    one = json.loads(first.read_text())
    assert one["parts"]["recipes"]["attempts"] == 4 and one["parts"]["recipes"]["seeds"] == [7, 7]
    goes_on = (*begun[:2], "--minutes", "5", "--batch", "4", "--from", str(first))
    assert sitting(*goes_on, "--out", str(second)).exit_code == 0
    both = json.loads(second.read_text())
    assert both["parts"]["recipes"]["attempts"] == 12 and both["parts"]["recipes"]["seeds"] == [7, 9]
    assert [of["turns"] for of in both["sittings"]] == [{"recipes": 1}, {"recipes": 2}]
    alone = [run_part("benchmarks.campaign.recipes", seed, 4) for seed in (7, 8, 9)]
    assert both["parts"]["recipes"]["ok"] == sum(counts.ok for counts in alone)
    assert sitting(*goes_on, "--seed", "7").exit_code == 2  # would be the same attempts again
    at_goal = sitting("--part", "recipes", "--from", str(second))
    assert json.loads(at_goal.stdout) == both


def test_parts_that_ran_at_once_are_put_together(tmp_path: Path) -> None:
    files = []
    for part in ("recipes", "images"):
        result = tally.begun(1)
        tally.begin_sitting(result)
        counts = dict.fromkeys(tally.OUTCOMES, 3) | {"errors": [[0, part]]}
        tally.add(result, part, counts, time.monotonic())
        files.append(tmp_path / f"{part}.json")
        tally.write(result, files[-1])
    out = tmp_path / "both.json"
    words = ("--minutes", "0", "--part", "images", "--part", "recipes", "--out", str(out))
    together = sitting(*words, "--from", str(files[0]), "--from", str(files[1]))
    assert together.exit_code == 1  # neither is clean
    both = json.loads(out.read_text())
    assert both["parts"] == {
        part: json.loads(file.read_text())["parts"][part]
        for part, file in zip(("recipes", "images"), files, strict=True)
    }
    assert len(both["sittings"]) == 2
    twice = sitting(*words, "--from", str(out), "--from", str(files[1]))
    assert twice.exit_code == 1
    assert twice.stderr.startswith(f"Error: {files[1]}: has attempts of images, and a file before it has")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2, "first_seed": 0, "sittings": [1], "parts": {"x": {"seeds": [0, 0]}}}'],
)
def test_what_is_no_result_of_a_campaign_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "earlier.json"
    file.write_text(content)
    refused = sitting("--from", str(file))
    assert refused.exit_code == 1 and refused.stderr.startswith(f"Error: {file}: holds no result")


def test_kills_are_summed_for_each_command() -> None:
    result = tally.begun(0)
    tally.begin_sitting(result)
    outcomes = dict.fromkeys(tally.OUTCOMES, 0)
    for ended in (2, 3):
        commands = {
            "embed": {"ended": ended, "SIGKILL": 1, "hang": 0},
            "distill": {"ended": 10, "SIGTERM": 10, "hang": 1},
        }
        counts = outcomes | {"attempts": 10 + ended, "hung": 1, "errors": [["distill", "hang", 1]]}
        tally.add(result, "kills", counts | {"commands": commands}, time.monotonic())
    assert result["parts"]["kills"]["commands"] == {
        "embed": {"ended": 5, "SIGKILL": 2, "hang": 0},
        "distill": {"ended": 20, "SIGTERM": 20, "hang": 2},
    }
    assert result["parts"]["kills"]["errors"] == [[0, "distill", "hang", 1], [1, "distill", "hang", 1]]
    assert tally.reached(result, "kills") == 5 / tally.GOALS["kills"]
    assert not tally.is_clean(result)
