"""The study of selection signals on unlabelled images, against numbers worked out by hand."""

from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import selection_signal
from benchmarks.docs_trials import SELECTION, selection_table
from benchmarks.selection_signal import OUTPUT, RECORDS, main, study
from vl2v_deploy.errors import BenchmarkError


def line(variant: str, seed: int, ood: float, val: float, agreement: float) -> dict[str, Any]:
    others = {"held_out_cosine": agreement, "held_out_kl": 1 - agreement}
    return {
        "variant": variant,
        "target": "a",
        "seed": seed,
        "ood": ood,
        "source_val": val,
        "held_out_agreement": agreement,
        **others,
    }


def test_signals_on_unlabelled_images_lose_what_their_choice_loses() -> None:
    lines = [
        line("x", 0, ood=0.80, val=0.7, agreement=0.5),
        line("y", 0, ood=0.70, val=0.9, agreement=0.4),
        line("z", 0, ood=0.60, val=0.6, agreement=0.1),
        line("x", 1, ood=0.50, val=0.5, agreement=0.9),
        line("y", 1, ood=0.54, val=0.6, agreement=0.2),
        line("x", 2, ood=0.99, val=0.5, agreement=0.9),  # alone: nothing to choose
    ]
    found = study(lines)
    assert [(row["target"], row["seed"]) for row in found["groups"]] == [("a", 0), ("a", 1)]
    lost = {name: of["regret"]["mean"] for name, of in found["signals"].items()}
    assert lost["source val"] == pytest.approx((10 + 0) / 2)
    assert lost["agreement"] == lost["cosine"] == lost["KL"] == pytest.approx((0 + 4) / 2)
    # seed 0: x and y share the mean rank 1.5; seed 1: both 1.5
    assert lost["mean rank of source val and agreement"] == pytest.approx((5 + 2) / 2)
    assert lost["any variant"] == pytest.approx((10 + 2) / 2)
    less = found["signals"]["agreement"]["less_than_source_val"]
    assert (less["mean"], less["se"]) == (pytest.approx(3.0), pytest.approx(7.0))
    assert found["signals"]["source val"]["correlation"] == pytest.approx((0.5 + 1) / 2)
    assert doctest.testmod(selection_signal).failed == 0


def test_the_committed_study_of_unlabelled_trials_is_that_of_the_committed_records(tmp_path: Path) -> None:
    folder = tmp_path / Path(SELECTION).parent
    shutil.copytree(RECORDS, folder)
    assert CliRunner().invoke(main, ["--records", str(folder)]).exit_code == 0
    assert json.loads((folder / OUTPUT).read_text()) == json.loads((RECORDS / OUTPUT).read_text())
    assert len(selection_table(tmp_path).rows) == 6
    with (folder / "runs.jsonl").open("a") as file:
        file.write(json.dumps(line("x", 0, 0.5, 0.5, 0.5)) + "\n")
    with pytest.raises(BenchmarkError, match=r"selection_signal\.py again"):
        selection_table(tmp_path)
