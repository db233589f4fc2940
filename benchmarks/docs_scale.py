"""The table and figures of benchmarks/scale.py's result, for docs_results.py."""

from __future__ import annotations

from pathlib import Path

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
    "near_hours": ("near copies", "cpu_s", 3600.0),
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
    """Extrapolated to 10^7 images, from what an image more costs."""
    counts = json_of(results / SCALE)["counts"]
    few, many = sorted(counts, key=int)[-2:]
    found = {"scale.to": f"{int(many):,}"}
    for name, (phase, of, unit) in _SHOWN.items():
        value = MANY * _an_image_more(counts, (few, many), phase, of) / unit
        found[f"scale.{name}"] = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
    return found


def _an_image_more(
    counts: dict[str, dict[str, dict[str, float]]], between: tuple[str, str], phase: str, of: str
) -> float:
    few, many = between
    return (counts[many][phase][of] - counts[few][phase][of]) / (int(many) - int(few))
