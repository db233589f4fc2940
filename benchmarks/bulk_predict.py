"""Throughput of `vl2v-deploy predict --out` against decoding and the session alone, on all cores.

    python benchmarks/bulk_predict.py bundles/quickstart --images 2000

Both get the same list of the bundle's golden images, over and over, and run in as many processes of one
thread as there are cores. The bound does nothing but decode and run batches of 32 and throws the answers
away: no rows, no files, no order. Start-up counts for neither: a rate is the difference of a long and a short
run. The rounds are interleaved, so that what else the machine does hits both; a ratio is of one round, the
median is the result. The same ratio of processor time an image, of all processes together, says what it would
be on a machine that does nothing else. Exit code 1 when the ratio of the rates is below 0.95. Writes
benchmarks/results/bulk_predict_<device>.json.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeAlias

import click
import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.bulk.answering import ROWS_AT_ONCE
from vl2v_deploy.bulk.parts import BLOCK
from vl2v_deploy.bulk.run import Settings, predict_to
from vl2v_deploy.client import Student, open_bundle
from vl2v_deploy.client.golden import golden_of
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.terminal import new_console

RESULTS = Path(__file__).resolve().parent / "results"
GOAL = 0.95

# bundle, precision, images, processes, folder for files
Measured: TypeAlias = Callable[[Path, str, list[str], int, Path], None]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", default="fp32", show_default=True)
@click.option("--images", default=2000, show_default=True, type=click.IntRange(1), help="Of a long run.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundle: Path, precision: str, images: int, rounds: int, out: Path | None) -> None:
    """Measure bulk prediction with BUNDLE's student on the CPU."""
    processes = default_threads().count
    # whole blocks for every process, so that none idles at the end of either
    least = processes * ROWS_AT_ONCE
    counts = (least, least + max(1, images // least) * least)
    try:
        opened = open_bundle(bundle)
        golden = [str(path.absolute()) for path in golden_of(opened).paths]
        with tempfile.TemporaryDirectory() as folder:
            measured = [
                {
                    "bound": costs(bound, bundle, precision, golden, counts, processes, Path(folder)),
                    "predict": costs(predict, bundle, precision, golden, counts, processes, Path(folder)),
                }
                for _ in range(rounds)
            ]
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    ratios, cpu = (
        [one["bound"][kind] / one["predict"][kind] for one in measured] for kind in ("wall_ms", "cpu_ms")
    )
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/bulk_predict.py {bundle.name} --precision {precision} "
        f"--images {images} --rounds {rounds}",
        "device": describe_device(),
        "versions": package_versions(),
        "bundle": {"backbone": opened.manifest.student.backbone, "image_size_px": opened.image_size_px},
        "processes": processes,
        "images": counts,
        "an_image": measured,
        "ratio": {"median": median(ratios), "of_rounds": ratios, "goal": GOAL},
        "ratio_of_processor_time": {"median": median(cpu), "of_rounds": cpu},
    }
    path = out or RESULTS / f"bulk_predict_cpu-{processes}core.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    click.echo(
        f"predict at {100 * median(ratios):.0f} % of the rate of decoding and the session, median of "
        f"{len(ratios)} rounds; by processor time {100 * median(cpu):.0f} %"
    )
    click.echo(f"Written to {path}")
    if median(ratios) < GOAL:
        raise click.ClickException(f"below {100 * GOAL:.0f} %")


def costs(
    measured: Measured,
    bundle: Path,
    precision: str,
    golden: list[str],
    counts: tuple[int, int],
    processes: int,
    folder: Path,
) -> dict[str, float]:
    """What an image costs: how much longer more of them take, divided by how many more they are."""
    taken = []
    for count in counts:
        began = perf_counter(), processor_s()
        measured(bundle, precision, list(islice(cycle(golden), count)), processes, folder)
        taken.append((perf_counter() - began[0], processor_s() - began[1]))
    wall, cpu = (1000 * (long - short) / (counts[1] - counts[0]) for short, long in zip(*taken, strict=True))
    return {"wall_ms": wall, "cpu_ms": cpu}


def processor_s() -> float:
    """Processor time of this process and of those that it has started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def predict(bundle: Path, precision: str, images: list[str], processes: int, folder: Path) -> None:
    """The command's own function, from a list to a file of JSON lines."""
    names = folder / "images.txt"
    names.write_text("".join(f"{image}\n" for image in images))
    settings = Settings(precision=precision, workers=processes)
    predict_to(bundle, [str(names)], folder / "out.jsonl", settings, new_console(stderr=True), overwrite=True)


def bound(bundle: Path, precision: str, images: list[str], processes: int, _: Path) -> None:
    """Processes that only decode and run, each an equal share of the images."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        shares = [images[first::processes] for first in range(processes)]
        list(pool.map(decode_and_run, [str(bundle)] * processes, [precision] * processes, shares))


def decode_and_run(bundle: str, precision: str, images: list[str]) -> None:
    """Every image through preprocessing and the session, 32 at a time, in one thread."""
    student = Student.load(bundle, precision=precision, threads=1)
    for first in range(0, len(images), BLOCK):
        student.run(np.stack([student.pixels(image) for image in images[first : first + BLOCK]]))


if __name__ == "__main__":
    main()
