"""Which student is best out of domain at a latency: OOD accuracy against the latency of its int8 file.

    python benchmarks/student_frontier.py RUN...

RUN are finished runs, or folders that hold some. Runs with the same backbone and image size are one student;
only targets and seeds that all students have are counted. One run of each is exported: what a file
takes does not depend on its weights. Latency: one image, pixels in and logits out, onnxruntime on the CPU
with one thread, the students in turn in every round, so that drift hits all alike. Writes
student_frontier_<device>.json and .svg in benchmarks/results.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import click
import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vl2v_deploy
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import Student
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.distillation.study.results import Result, load_results
from vl2v_deploy.errors import RunError, VL2VError
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).parent / "results"
PRECISIONS = ("fp32", "int8")
WARM_UP = 20
Name = tuple[str, int]  # backbone, image size


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=300, show_default=True, type=click.IntRange(20))
@click.option("--out", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...], rounds: int, out: Path) -> None:
    try:
        students = students_of(load_results(runs))
        samples = latencies({name: found[0].path for name, found in students.items()}, rounds)
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    rows = [row_of(name, found, samples[name]) for name, found in students.items()]
    for row in rows:
        row["on_the_frontier"] = not any(beats(other, row) for other in rows)
    report: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/student_frontier.py RUN...",
        "device": describe_device(),
        "versions": package_versions(),
        "threads": 1,
        "students": sorted(rows, key=lambda row: row["latency_ms"]["int8"]),
    }
    file = out / f"student_frontier_cpu-{default_threads().count}core.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draw(report["students"], file.with_suffix(".svg"))
    for row in report["students"]:
        star = "*" if row["on_the_frontier"] else " "
        name = f"{row['backbone']} at {row['image_size_px']} px"
        click.echo(f"{star} {name:<34}{row['latency_ms']['int8']:7.2f} ms  OOD {100 * row['ood']:.1f}")
    click.echo(f"Written to {file}")


def students_of(results: Sequence[Result]) -> dict[Name, list[Result]]:
    """The runs of each student that every student has: of the same targets and seeds.

    Raises RunError where there is no such target and seed, two runs are of the same, or one has no target.
    """
    cells: dict[Name, dict[tuple[str, Any], Result]] = {}
    for result in results:
        if result.ood is None:
            raise RunError(f"{result.path}: no domain was kept unseen: it has no OOD accuracy to compare")
        name = result.recipe.student.backbone, result.recipe.student.image_size_px
        found = cells.setdefault(name, {})
        if (other := found.setdefault((result.target, result.seeds), result)) is not result:
            raise RunError(
                f"{other.path} and {result.path}: the same student, target and seed; name only one"
            )
    common = set.intersection(*(set(found) for found in cells.values()))
    if not common:
        raise RunError("the students have no target and seed in common: nothing to compare")
    return {name: [found[cell] for cell in sorted(common)] for name, found in cells.items()}


def latencies(runs: Mapping[Name, Path], rounds: int) -> dict[Name, dict[str, list[float]]]:
    """Milliseconds of each call by student and precision."""
    with tempfile.TemporaryDirectory() as scratch:
        students: dict[tuple[Name, str], Student] = {}
        for name, run in runs.items():
            bundle = Path(scratch) / f"{name[0]}-{name[1]}"
            vl2v_deploy.export(run, bundle, precision=PRECISIONS)
            for precision in PRECISIONS:
                students[name, precision] = Student.load(bundle, precision=precision, threads=1)
        found: dict[Name, dict[str, list[float]]] = {name: {p: [] for p in PRECISIONS} for name in runs}
        rng = np.random.default_rng(0)
        images = {name: rng.integers(0, 256, (1, name[1], name[1], 3), np.uint8) for name in runs}
        for number in range(WARM_UP + rounds):
            for (name, precision), student in students.items():
                started = perf_counter()
                student.run(images[name])
                if number >= WARM_UP:
                    found[name][precision].append(1e3 * (perf_counter() - started))
        for student in students.values():
            student.close()
    return found


def row_of(name: Name, runs: Sequence[Result], samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What the result says of one student; accuracies are of the torch students."""
    return {
        "backbone": name[0],
        "image_size_px": name[1],
        "runs": [
            {"target": r.target, "seeds": r.seeds, "ood": r.ood_accuracy, "id": r.id_accuracy} for r in runs
        ],
        "ood": fmean(run.ood.accuracy for run in runs if run.ood),
        "id": fmean(run.id_accuracy for run in runs),
        "latency_ms": {precision: median(values) for precision, values in samples.items()},
        "samples_ms": {p: [round(value, 4) for value in values] for p, values in samples.items()},
        "recipe_sha256": [run.record.recipe_sha256 for run in runs],
    }


def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one student is at least as fast and as accurate as the other, and not the same in both."""
    mine, theirs = (one["latency_ms"]["int8"], -one["ood"]), (other["latency_ms"]["int8"], -other["ood"])
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """OOD accuracy against latency, the frontier as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    best = [row for row in rows if row["on_the_frontier"]]
    axes.plot([r["latency_ms"]["int8"] for r in best], [100 * r["ood"] for r in best], color="0.7", zorder=1)
    for row in rows:
        place = row["latency_ms"]["int8"], 100 * row["ood"]
        axes.scatter(*place, color="tab:blue" if row["on_the_frontier"] else "0.5", zorder=2)
        short = row["backbone"].replace("tf_efficientnet_lite", "Lite")
        axes.annotate(
            f"{short}, {row['image_size_px']} px",
            place,
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlabel("latency of the int8 file, ms (one image, one thread)")
    axes.set_ylabel("OOD accuracy, %")
    axes.margins(x=0.16, y=0.14)
    axes.grid(alpha=0.3)
    figure.savefig(file)


if __name__ == "__main__":
    main()
