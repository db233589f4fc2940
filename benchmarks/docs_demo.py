"""What the documents show of demo_parts.py's and bulk_predict.py's results, for docs_results.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks.docs_files import json_of
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.errors import BenchmarkError

PARTS, BULK = "demo_parts_cpu-2core.json", "bulk_predict_cpu-2core.json"


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


def bulk_figures(results: Path) -> dict[str, str]:
    """What bulk prediction reaches of the rate of decoding and the session alone."""
    ratio = json_of(results / BULK)["ratio"]
    if ratio["median"] < ratio["goal"]:
        raise BenchmarkError(
            f"{BULK}: {ratio['median']:.2f} is below {ratio['goal']}: the documents say that it is not"
        )
    return {"bulk.percent": f"{100 * ratio['median']:.0f}", "bulk.rounds": str(len(ratio["of_rounds"]))}
