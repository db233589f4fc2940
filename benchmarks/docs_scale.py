"""The table and figures of benchmarks/scale.py's result, for docs_results.py."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any

from benchmarks.docs_files import json_of
from vl2v_deploy.benchmarking.report.grid import Grid

SCALE = "scale_cpu-2core.json"
MANY = 10**7
# by what the documents call it: the phase, what of it, and the size of the unit
_SHOWN = {
    "list_minutes": ("list", "cpu_s", 60.0),
    "first_hours": ("first look", "cpu_s", 3600.0),
    "second_hours": ("second look", "cpu_s", 3600.0),
    "second_gb": ("second look", "peak_bytes", 1e9),
    "embed_hours": ("embed", "cpu_s", 3600.0),
    "embed_gb": ("embed", "peak_bytes", 1e9),
    "train_gb": ("distill's data", "peak_bytes", 1e9),
}


def scale_table(results: Path) -> Grid:
    """Processor seconds and memory of each phase for each count, and what each further image costs."""
    counts = json_of(results / SCALE)["counts"]
    columns = [f"{int(count):,} images" for count in counts]
    grid = Grid(("", *columns, "per further image"))
    few, many = sorted(counts, key=int)[-2:]
    for phase in counts[few] | counts[many]:
        cells = []
        for of_count in counts.values():
            if phase not in of_count:
                cells.append("")
                continue
            found = of_count[phase]
            added_mb = (found["peak_bytes"] - found["begin_bytes"]) / 1e6
            cells.append(f"{found['cpu_s']:.2f} s, {added_mb:.0f} MB")
        if phase not in counts[few] or phase not in counts[many]:  # not measured yet
            grid.rows.append((phase, *cells, ""))
            continue
        ms, kb = (
            _an_image_more(counts, (few, many), phase, of) * unit
            for of, unit in (("cpu_s", 1e3), ("peak_bytes", 1e-3))
        )
        grid.rows.append((phase, *cells, f"{ms:.3f} ms, {max(kb, 0):.1f} kB"))
    return grid


def scale_figures(results: Path) -> dict[str, str]:
    """Extrapolated to 10^7 images: what an image more costs, and near copies at their own growth."""
    counts = json_of(results / SCALE)["counts"]
    few, many = sorted(counts, key=int)[-2:]
    power = _growth_of_near_copies(counts, few, many)
    near_s = _near_copies_s(counts[many]) * (MANY / int(many)) ** power
    found = {
        "scale.to": f"{int(many):,}",
        "scale.near_power": f"{power:.1f}",
        "scale.near_minutes": _two_digits(near_s / 60),
    }
    for name, (phase, of, unit) in _SHOWN.items():
        found[f"scale.{name}"] = _two_digits(MANY * _an_image_more(counts, (few, many), phase, of) / unit)
    return found


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _growth_of_near_copies(counts: Mapping[str, Any], few: str, many: str) -> float:
    """The power of the number of images with which their seconds grow between two counts."""
    ratio = _near_copies_s(counts[many]) / _near_copies_s(counts[few])
    return log(ratio) / log(int(many) / int(few))


def _near_copies_s(measured: Mapping[str, Any]) -> float:
    """Of the search alone: its phase begins with a second look."""
    return float(measured["near copies"]["cpu_s"] - measured["second look"]["cpu_s"])


def _an_image_more(
    counts: dict[str, dict[str, dict[str, float]]], between: tuple[str, str], phase: str, of: str
) -> float:
    few, many = between
    return (counts[many][phase][of] - counts[few][phase][of]) / (int(many) - int(few))
