"""benchmarks/scale.py goes on where it was, and its images are all different and made but once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from benchmarks.docs_scale import SCALE, scale_figures, scale_table
from benchmarks.scale import plot, unmeasured
from benchmarks.scale_phases import PHASES, make_images

COUNT = 300
COST = {"cpu_s": 0.001, "peak_bytes": 2000.0}  # of an image


def measured(count: int) -> dict[str, dict[str, float]]:
    """Phases whose cost grows with the number of images alone."""
    row = {of: 5 + cost * count for of, cost in COST.items()} | {"seconds": 1.0 + count, "begin_bytes": 0.0}
    return dict.fromkeys(PHASES, row)


def test_images_differ_and_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    made = sorted(make_images(tmp_path / "a" / "images", COUNT).rglob("*.jpg"))
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in made}) == COUNT
    assert len({path.parent.parent.name for path in made}) == 5  # domains
    again = sorted(make_images(tmp_path / "b" / "images", COUNT).rglob("*.jpg"))
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in again]
    made[0].unlink()
    make_images(tmp_path / "a" / "images", COUNT)
    assert not made[0].exists()


def test_only_what_is_missing_is_measured_while_the_cache_is_there(tmp_path: Path) -> None:
    part = {phase: row for phase, row in measured(1000).items() if phase != "predict"}
    assert unmeasured(part, tmp_path) == [*PHASES]
    (tmp_path / "cache").mkdir()
    assert unmeasured(part, tmp_path) == ["predict"]
    assert unmeasured(measured(1000), tmp_path / "gone") == []


def test_table_and_figures_come_from_what_an_image_more_costs(tmp_path: Path) -> None:
    counts = {str(count): measured(count) for count in (1000, 10_000)}
    (tmp_path / SCALE).write_text(json.dumps({"counts": counts}))
    grid = scale_table(tmp_path)
    assert [row[0] for row in grid.rows] == [*PHASES]
    assert {row[-1] for row in grid.rows} == {"1.000 ms, 2.0 kB"}
    found = scale_figures(tmp_path)
    assert found["scale.to"] == "10,000" and found["scale.embed_hours"] == "2.8"
    assert found["scale.train_gb"] == "20"
    plot(counts, tmp_path / "plot.svg")
    assert "predict" in (tmp_path / "plot.svg").read_text()
