"""What docs/results.md shows of the campaign of hostile inputs and killed commands (benchmarks/campaign)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.docs_files import json_of
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.errors import BenchmarkError

CAMPAIGN = "campaign.json"
HOSTILE = ("images", "bundles", "recipes")


def campaign_table(results: Path) -> Grid:
    """One row for each kind of hostile input: what became of the attempts."""
    parts = json_of(results / CAMPAIGN)["parts"]
    outcomes = ("attempts", "ok", "documented", "foreign", "crashed", "hung")
    columns = ("attempts", "answered", "documented error", "other error", "crash", "over 5 s")
    rows = [(f"mutated {part}", *(f"{parts[part][outcome]:,}" for outcome in outcomes)) for part in HOSTILE]
    return Grid(("", *columns), rows)


def kills_table(results: Path) -> Grid:
    """One row for each command: how often it was ended by a signal, and what was wrong afterwards."""
    commands = json_of(results / CAMPAIGN)["parts"]["kills"]["commands"]
    columns = (
        *("command", "ended by a signal", "by SIGKILL", "another result", "could not go on", "hang"),
        *("process left", "file left", "traceback or status"),
    )
    rows = []
    for name, of in commands.items():
        cells = (
            *(of["ended"], of.get("SIGKILL", 0), of["different"], of["stuck"], of["hang"], of["orphan"]),
            *(of["left over"], of["traceback"] + of["status"]),
        )
        rows.append((f"`{name}`", *(f"{cell:,}" for cell in cells)))
    return Grid(columns, rows)


def campaign_figures(results: Path) -> dict[str, str]:
    """How long the campaign took, in how many sittings."""
    sittings = json_of(results / CAMPAIGN)["sittings"]
    if not sittings:
        raise BenchmarkError(f"{CAMPAIGN}: has no sitting")
    return {
        "campaign.minutes": f"{sum(sitting['minutes'] for sitting in sittings):,.0f}",
        "campaign.sittings": str(len(sittings)),
    }
