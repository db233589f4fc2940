"""What `vl2v-deploy distill` prints when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from vl2v_deploy.models.run_directory import read_record

ROWS = {
    "student": "student (ADiP)",
    "teacher": "teacher, zero-shot",
    "linear_probe": "linear probe of the student",
}


def print_runs(runs: Sequence[Path]) -> None:
    """A table for each run, accuracy per domain, and where the run is."""
    console = Console()
    for run in runs:
        record = read_record(run)
        console.print(accuracy_table(record))
        data = record["data"]
        if data["skipped"]:
            console.print(f"{len(data['skipped'])} image(s) that do not decode were left out: see run.json.")
        console.print(
            f"{record['teacher']['queries']} teacher queries. Run: {run}. Next: vl2v-deploy export {run}",
            soft_wrap=True,
        )


def accuracy_table(record: dict[str, Any]) -> Table:
    """Accuracy in percent: a row each for student, teacher and linear probe, a column a domain."""
    accuracy, evaluated = record["accuracy"], record["data"]["evaluated"]
    target = accuracy["target"]
    sources = [domain for domain in evaluated if domain != target]
    table = Table(title=f"Accuracy on held-out images, %; target domain: {target}")
    table.add_column("")
    for domain in sources:
        table.add_column(f"{domain}\nID, {evaluated[domain]}", justify="right")
    table.add_column("ID mean", justify="right", style="bold")
    table.add_column(f"{target}\nOOD, {evaluated[target]}", justify="right", style="bold")
    for key, title in ROWS.items():
        by_domain = accuracy[key]
        cells = [by_domain[domain] for domain in sources]
        cells += [mean(cells), by_domain[target]]
        table.add_row(title, *(f"{100 * cell:.1f}" for cell in cells))
    return table
