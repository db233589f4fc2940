"""Time to accuracy: which runs it makes, which it keeps, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks.peers import authors_loop, until_accuracy
from benchmarks.peers.until_accuracy import summary, table, verdict
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.recipe import Recipe, load_recipe, recipe_sha256


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("until")
    return write_recipe(folder, make_domain_folder(folder / "data"))


def invoke(recipe_file: Path, out: Path, *options: str) -> Result:
    """The command at a tiny scale, on one thread."""

    def tiny(_: str, overrides: Sequence[str], **options: Any) -> Recipe:
        return load_recipe(recipe_file, overrides)

    before = torch.get_num_threads()
    given = ["--until-accuracy", "--steps", "4", "--batch-per-domain", "3", "--evaluate-every", "2"]
    given += ["--workers", "0", "--threads", "1", "--out", str(out)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(authors_loop, "scenario_recipe", tiny)
            return CliRunner().invoke(authors_loop.main, [*given, *options])
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def measured(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The file of a whole command on two targets, what it holds, and what the command printed."""
    out = tmp_path_factory.mktemp("result") / "result.json"
    done = invoke(recipe_file, out, "--targets", "ink,photo", "--budgets", "4,2")
    assert done.exit_code == 0, done.output
    return out, json.loads(out.read_text()), done.output


def keys(report: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(part["side"], part["target"], part["steps"]) for part in report["parts"]]


def test_each_target_has_the_authors_run_and_one_of_ours_a_budget(measured: Any, recipe_file: Path) -> None:
    _, report, printed = measured
    assert keys(report) == [
        (side, target, steps)
        for target in ("ink", "photo")
        for side, steps in (("authors", 4), ("ours", 2), ("ours", 4))
    ]
    for part in report["parts"]:
        # Two sources; theirs three of each in a step, as the command says, ours four, as its recipe does.
        assert part["stages"]["distill"]["images"] == part["steps"] * 2 * (
            3 if part["side"] == "authors" else 4
        )
        assert part["user_s"] > 0
        # Ours aligns as its recipe says, whatever the budget; theirs as long as it distills.
        assert part["stages"]["align"]["steps"] == (4 if part["side"] == "authors" else 12)
    common = ["device=cpu", "data.target=photo", "seed=0", "distill.steps=2"]
    expected = load_recipe(
        recipe_file, [*common, "distill.evaluate_every=1"]
    )  # two evaluations, as in theirs
    assert report["parts"][4]["recipe_sha256"] == recipe_sha256(expected)
    assert verdict(report) in printed.replace("\n", " ").replace("  ", " ")


def test_a_second_command_runs_only_what_is_missing(
    measured: Any, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, report, _ = measured
    out = tmp_path / "again.json"
    out.write_text(path.read_text())
    ran = []
    run = until_accuracy._run
    monkeypatch.setattr(until_accuracy, "_run", lambda key, *rest: ran.append(key) or run(key, *rest))
    done = invoke(recipe_file, out, "--targets", "photo", "--budgets", "2,3")
    assert done.exit_code == 0, done.output
    assert ran == [("ours", "photo", 0, 3)]
    again = json.loads(out.read_text())
    assert keys(again) == [*keys(report), ("ours", "photo", 3)]
    assert again["parts"][:-1] == report["parts"]
    assert list(again["summary"]["ours"]) == ["2", "3"]
    assert list(again["summary"]["authors"]["by_target"]) == ["photo"]
    # Other settings of ours are another run, the authors' is the same.
    ran.clear()
    done = invoke(
        recipe_file, out, "--targets", "photo", "--budgets", "2", "--set", "distill.learning_rate=1e-4"
    )
    assert done.exit_code == 0, done.output
    assert ran == [("ours", "photo", 0, 2)]
    assert json.loads(out.read_text())["ours_set"] == ["distill.learning_rate=1e-4"]


def test_parts_of_other_conditions_are_refused(measured: Any, recipe_file: Path, tmp_path: Path) -> None:
    report = measured[1]
    out = tmp_path / "other.json"
    out.write_text(json.dumps(report | {"threads": 7}))
    before = out.read_text()
    done = invoke(recipe_file, out, "--targets", "ink,photo", "--budgets", "2,4")
    assert done.exit_code == 1
    assert str(out) in done.output and "threads 7" in done.output
    assert out.read_text() == before


def test_targets_are_put_into_our_settings(recipe_file: Path) -> None:
    seen: list[Sequence[str]] = []

    def load(overrides: Sequence[str]) -> Recipe:
        seen.append(overrides)
        return load_recipe(
            recipe_file, [text for text in overrides if not text.startswith("data.unlabelled")]
        )

    plan = until_accuracy.Plan(
        load, (), (), ("data.unlabelled=[{target}.txt]",), ("ink", "photo"), (0,), (2,)
    )
    list(plan.runs())
    theirs = [text for overrides in seen[::2] for text in overrides]
    ours = [text for overrides in seen[1::2] for text in overrides]
    assert not any("unlabelled" in text for text in theirs)
    assert [text for text in ours if "unlabelled" in text] == [
        "data.unlabelled=[ink.txt]",
        "data.unlabelled=[photo.txt]",
    ]


def part(side: str, target: str, steps: int, ood: float, seconds: float) -> dict[str, Any]:
    seconds_of_stage = {"data": 1.0, "train": 2.0} if side == "authors" else 1.5
    stage = {"seconds": seconds_of_stage, "steps": steps, "images": 48 * steps}
    return {
        "side": side,
        "target": target,
        "seed": 0,
        "steps": steps,
        "accuracy": {"ood": ood, "id": 0.5, "images": {target: 100}},
        "total_s": seconds,
        "user_s": 2 * seconds,
        "system_s": 1.0,
        "stages": dict.fromkeys(("align", "distill"), stage),
        "seconds": {"teacher": 1.0, "features": 2.0, "evaluate": 3.0, "align": 9.0} if side == "ours" else {},
        "teacher_images": 10,
    }


def made(*of_ours: tuple[int, float, float]) -> list[dict[str, Any]]:
    """Parts on two targets; of_ours: steps and the accuracies on them. The authors' mean is 0.7."""
    parts = [part("authors", "a", 100, 0.6, 80.0), part("authors", "b", 100, 0.8, 120.0)]
    for steps, *shares in of_ours:
        parts += [part("ours", name, steps, ood, 10.0) for name, ood in zip("ab", shares, strict=True)]
    return parts


def test_the_mean_of_the_targets_decides_and_has_to_hold_for_longer_runs_too() -> None:
    assert summary(made((25, 0.9, 0.4), (50, 0.5, 0.9)))["reached"] == 50
    assert summary(made((25, 0.9, 0.5), (50, 0.5, 0.9)))["reached"] == 25
    assert summary(made((25, 0.9, 0.9), (50, 0.6, 0.7), (100, 0.7, 0.8)))["reached"] == 100
    assert summary(made((25, 0.9, 0.9), (50, 0.6, 0.7)))["reached"] is None


def test_seconds_ratios_and_errors_are_those_of_the_parts() -> None:
    found = summary(made((25, 0.9, 0.5)))
    authors, ours = found["authors"], found["ours"]["25"]
    assert (authors["total_s"], authors["processor_s"], authors["training_s"]) == (100.0, 201.0, 6.0)
    assert (ours["total_s"], ours["processor_s"], ours["training_s"]) == (10.0, 21.0, 3.0)
    assert (authors["paid_once_s"], ours["paid_once_s"]) == (0.0, 6.0)
    assert found["times_as_fast"]["25"] == {"total_s": 10.0, "processor_s": 201 / 21, "training_s": 2.0}
    # Two targets of 100 images: half the root of the summed binomial variances.
    assert authors["ood_error"] == pytest.approx((0.6 * 0.4 / 100 + 0.8 * 0.2 / 100) ** 0.5 / 2)


def test_the_table_and_the_verdict_say_what_the_summary_says() -> None:
    report = {"summary": summary(made((25, 0.9, 0.3), (50, 0.9, 0.9)))}
    columns, rows = table(report)
    assert columns[1:] == ["authors' procedure", "ours, 25 steps", "ours, 50 steps"]
    cells = {row[0]: row[1:] for row in rows}
    assert all(len(row) == len(columns) for row in rows)
    assert [text.split(" ")[0] for text in cells["OOD accuracy, %, mean"]] == ["70.0", "60.0", "90.0"]
    assert cells["images in a step of Distill"] == ["48", "48", "48"]
    assert cells["... on b"] == ["80.0", "30.0", "90.0"]
    assert cells["times as fast, processors"] == ["1", "9.6", "9.6"]
    assert "50 steps" in verdict(report) and "10 % of their processor time" in verdict(report)
    assert verdict({"summary": summary(made((25, 0.9, 0.3)))}).startswith("Not reached")
