"""How fast each precision of a bundle is in onnxruntime on this machine, as a ratio to fp32, in one run.

    python benchmarks/precisions.py bundles/quickstart

Host tensor to host result, one thread, the files in turn in every round, so that drift hits all alike. Writes
benchmarks/results/precisions_<device>.json: raw samples, medians and ratios.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import Student
from vl2v_deploy.client.bundle import GOLDEN, open_bundle
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).parent / "results"
WARM_UP = 20


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rounds", default=200, show_default=True, type=click.IntRange(20))
@click.option("--batch", "batches", default=(1, 8), show_default=True, multiple=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundle: Path, rounds: int, batches: tuple[int, ...], out: Path | None) -> None:
    """Time every ONNX file of BUNDLE in onnxruntime on the CPU."""
    try:
        opened = open_bundle(bundle)
        students: dict[str, Student] = {
            name: Student.load(bundle, precision=name, threads=1) for name in opened.precisions
        }
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    with np.load(bundle / GOLDEN, allow_pickle=False) as golden:
        images = golden["images"]
    samples = {batch: timed(students, images, batch, rounds) for batch in batches}
    report: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/precisions.py {bundle}",
        "device": describe_device(),
        "versions": package_versions(),
        "threads": 1,
        "bundle": {
            "backbone": opened.manifest.student.backbone,
            "image_size_px": opened.image_size_px,
            "files": {
                name: to_json(opened.manifest.files[made.file])
                for name, made in opened.manifest.precisions.items()
            },
        },
        "batches": {str(batch): summary(by_precision) for batch, by_precision in samples.items()},
    }
    path = out or RESULTS / f"precisions_cpu-{default_threads().count}core.json"
    text = json.dumps(report, indent=1)
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")
    for batch, facts in report["batches"].items():
        for name, precision in facts.items():
            click.echo(
                f"batch {batch}: {name}: {precision['median_ms']:.2f} ms, "
                f"{precision['times_as_fast_as_fp32']:.2f} x as fast as fp32"
            )
    click.echo(f"Written to {path}")


def timed(
    students: Mapping[str, Student], images: np.ndarray, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each run by precision; images uint8 (N, S, S, 3) are gone through again to fill a batch."""
    chosen = images[np.arange(batch) % len(images)]
    samples: dict[str, list[float]] = {name: [] for name in students}
    for number in range(WARM_UP + rounds):
        for name, student in students.items():
            started = perf_counter()
            student.run(chosen)
            if number >= WARM_UP:
                samples[name].append(perf_counter() - started)
    return samples


def summary(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Median and ratio of each precision, beside the raw samples; the ratio is of medians of the same run."""
    fp32 = median(samples["fp32"])
    return {
        name: {
            "median_ms": 1e3 * median(seconds),
            "times_as_fast_as_fp32": fp32 / median(seconds),
            "samples_ms": [round(1e3 * value, 4) for value in seconds],
        }
        for name, seconds in samples.items()
    }


if __name__ == "__main__":
    main()
