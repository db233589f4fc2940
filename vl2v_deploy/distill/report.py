"""What `vl2v-deploy distill` prints when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from vl2v_deploy.models.run_directory import read_record

COLUMNS = {
    "student": "student",
    "teacher": "zero-shot\nteacher",
    "linear_probe": "linear probe\nof the student",
}


def print_runs(runs: Sequence[Path]) -> None:
    """A table for each run, and where it is; with several runs, the mean over their targets."""
    console = Console()
    for run in runs:
        record = read_record(run)
        console.print(accuracy_table(record))
        data = record["data"]
        if data["skipped"]:
            console.print(f"{len(data['skipped'])} image(s) that do not decode were left out: see run.json.")
        console.print(
            f"{record['teacher']['images']} images were embedded by the teacher, "
            f"{record['teacher']['queries']} of them in this run; the others were in the embedding store.\n"
            f"Run: {run}\nNext: vl2v-deploy export {run}",
            soft_wrap=True,
        )

    if len(runs) > 1:
        accuracies = [read_record(run)["accuracy"] for run in runs]
        means = {key: 100 * mean(each[key][each["target"]] for each in accuracies) for key in COLUMNS}
        console.print(
            f"Mean OOD accuracy over {len(runs)} targets: student {means['student']:.1f}, zero-shot teacher "
            f"{means['teacher']:.1f}, linear probe {means['linear_probe']:.1f}."
        )


def accuracy_table(record: dict[str, Any]) -> Table:
    """Accuracy in percent: a row a domain, a column each for student, teacher and linear probe."""
    accuracy, evaluated = record["accuracy"], record["data"]["evaluated"]
    target = accuracy["target"]
    sources = [domain for domain in evaluated if domain != target]
    table = Table(title="Accuracy on held-out images, %")
    table.add_column("domain")
    table.add_column("images", justify="right")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")

    def add(name: str, images: int, domains: Sequence[str], *, last: bool = False) -> None:
        means = (mean(accuracy[key][domain] for domain in domains) for key in COLUMNS)
        table.add_row(name, str(images), *(f"{100 * share:.1f}" for share in means), end_section=last)

    for domain in sources:
        add(domain, evaluated[domain], [domain], last=domain == sources[-1])
    add("mean of the sources (ID)", sum(evaluated[domain] for domain in sources), sources)
    add(f"{target} (target, OOD)", evaluated[target], [target])
    return table
