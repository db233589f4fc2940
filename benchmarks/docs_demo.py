"""What the documents show of demo_parts.py, training_step.py and bulk_predict.py, for docs_results.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.docs_files import json_of
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.errors import BenchmarkError

PARTS, BULK = "demo_parts_cpu-2core.json", "bulk_predict_cpu-2core.json"
STEP = "training_step_cpu-2core.json"


def parts_table(results: Path) -> Grid:
    """What each command of the demo takes."""
    grid = Grid(("", "seconds", "of all processors"))
    parts = json_of(results / PARTS)["parts"]
    for part in parts:
        program, command, *_ = part["command"].split()
        grid.rows.append((f"`{program} {command}`", f"{part['wall_s']:.0f}", f"{part['cpu_s']:.0f}"))
    together = (f"{sum(part[of] for part in parts):.0f}" for of in ("wall_s", "cpu_s"))
    grid.rows.append(("together", *together))
    return grid


def step_table(results: Path) -> Grid:
    """A step of Distill at each image size, with our weight gradients and without."""
    grid = Grid(("image size", "torch's gradients", "ours", "times as fast"))
    for size_px, step in json_of(results / STEP)["sizes_px"].items():
        seconds = (f"{1000 * step[of]:.0f} ms" for of in ("torch_s", "ours_s"))
        grid.rows.append((f"{size_px} px", *seconds, f"{step['times_as_fast']:.2f}"))
    return grid


def bulk_figures(results: Path) -> dict[str, str]:
    """What bulk prediction reaches of the rate of decoding and the session alone."""
    ratio = json_of(results / BULK)["ratio"]
    if ratio["median"] < ratio["goal"]:
        raise BenchmarkError(
            f"{BULK}: {ratio['median']:.2f} is below {ratio['goal']}: the documents say that it is not"
        )
    return {"bulk.percent": f"{100 * ratio['median']:.0f}", "bulk.rounds": str(len(ratio["of_rounds"]))}
