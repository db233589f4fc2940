"""Memory of the client after many batches of all sizes and many reloads, and what larger batches gain.

    python benchmarks/client_memory.py bundles/quickstart

In a process of its own each, with one thread: one `predict_batch` of 64 images, then --batches of random
size, 1 to 512; resident memory at the end must be within 1.5 times that after the one batch. --reloads times
load, answer, close: flat. And processor time of the session for an image, by images in one run, which shows
how many it pays to run at once. Exit code 1 when memory is not as promised. Needs Linux, for /proc. Writes
benchmarks/results/client_memory_<device>.json.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import click
import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import Student, open_bundle
from vl2v_deploy.client.running import MOST_ON_CPU, OUTPUTS
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).resolve().parent / "results"
FIRST_BATCH, LARGEST_BATCH = 64, 512
ALLOWED_GROWTH = 1.5
ALLOWED_RELOAD_GROWTH_BYTES = 16_000_000
AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", default="fp32", show_default=True)
@click.option("--batches", default=10_000, show_default=True, type=click.IntRange(0))
@click.option("--reloads", default=200, show_default=True, type=click.IntRange(20))
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(0), help="Of processor time.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundle: Path, precision: str, batches: int, reloads: int, rounds: int, out: Path | None) -> None:
    """Measure memory and what larger batches gain of BUNDLE's student on the CPU."""
    try:
        opened = open_bundle(bundle)
        asked = (str(bundle), precision)
        memory = apart(after_batches, *asked, batches)
        reloaded = apart(after_reloads, *asked, reloads)
        cpu_ms = apart(cpu_ms_by_images, *asked, rounds) if rounds else {}
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/client_memory.py {bundle.name} --batches {batches} "
        f"--reloads {reloads} --rounds {rounds}",
        "device": describe_device(),
        "versions": package_versions(),
        "bundle": {
            "backbone": opened.manifest.student.backbone,
            "image_size_px": opened.image_size_px,
            "precision": precision,
        },
        "most_at_once": MOST_ON_CPU,
        "batches": memory | {"count": batches, "largest": LARGEST_BATCH},
        "reloads": {"count": reloads, "rss_bytes": reloaded},
        "cpu_ms_an_image_by_images_at_once": cpu_ms,
    }
    path = out or RESULTS / f"client_memory_cpu-{default_threads().count}core.json"
    text = json.dumps(report, indent=1)
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")
    click.echo(
        f"{memory['loaded_bytes'] / 1e6:.0f} MB loaded, {memory['first_bytes'] / 1e6:.0f} after a batch of "
        f"{FIRST_BATCH}, {memory['last_bytes'] / 1e6:.0f} after {batches} of up to {LARGEST_BATCH}"
    )
    click.echo(f"{reloaded[0] / 1e6:.0f} MB after the first load, {reloaded[-1] / 1e6:.0f} after {reloads}")
    for images, took_ms in cpu_ms.items():
        click.echo(f"{images} at once: {took_ms:.2f} ms of processor time an image")
    click.echo(f"Written to {path}")
    if wrong := broken_promises(memory, reloaded):
        raise click.ClickException("; ".join(wrong))


def apart(measure: Callable[..., Any], *arguments: Any) -> Any:
    """What a function measures in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def after_batches(bundle: str, precision: str, batches: int) -> dict[str, int]:
    """Resident bytes once loaded, after one batch of 64, and after more of random size; seed 0."""
    rng = np.random.default_rng(0)
    with Student.load(bundle, precision=precision, threads=1) as student:
        loaded = rss_bytes()
        image = rng.integers(0, 256, (student.bundle.image_size_px,) * 2 + (3,), dtype=np.uint8)
        student.predict_batch([image] * FIRST_BATCH, batch_size=FIRST_BATCH)
        first = rss_bytes()
        for size in rng.integers(1, LARGEST_BATCH + 1, batches).tolist():
            student.predict_batch([image] * size, batch_size=size)
        return {"loaded_bytes": loaded, "first_bytes": first, "last_bytes": rss_bytes()}


def after_reloads(bundle: str, precision: str, reloads: int) -> list[int]:
    """Resident bytes after each load, answer and close."""
    samples = []
    for _ in range(reloads):
        with Student.load(bundle, precision=precision, threads=1) as student:
            student.predict(np.zeros((8, 8, 3), np.uint8))
        samples.append(rss_bytes())
    return samples


def cpu_ms_by_images(bundle: str, precision: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time for an image, by images in one run; busy machines add little."""
    took: dict[int, list[float]] = {images: [] for images in AT_ONCE}
    with Student.load(bundle, precision=precision, threads=1) as student:
        size = student.bundle.image_size_px
        pixels = np.random.default_rng(0).integers(0, 256, (max(AT_ONCE), size, size, 3), dtype=np.uint8)
        for number in range(rounds + 1):  # the first warms up
            for images in AT_ONCE:
                started = process_time()
                for _ in range(max(1, 32 // images)):
                    student._session.run(OUTPUTS, {"images": pixels[:images]})
                if number:
                    took[images].append((process_time() - started) / max(32, images))
    return {str(images): round(1e3 * median(seconds), 3) for images, seconds in took.items()}


def broken_promises(memory: dict[str, int], reloaded: list[int]) -> list[str]:
    """What is not as promised of memory, a line each."""
    wrong = []
    if memory["last_bytes"] > ALLOWED_GROWTH * memory["first_bytes"]:
        wrong.append(
            f"memory grew from {memory['first_bytes'] / 1e6:.0f} MB after one batch to "
            f"{memory['last_bytes'] / 1e6:.0f}, more than {ALLOWED_GROWTH} times"
        )
    # the first loads fill caches and heaps
    settled, last = median(reloaded[10:20]), median(reloaded[-10:])
    if last - settled > ALLOWED_RELOAD_GROWTH_BYTES:
        wrong.append(f"memory grew with reloads from {settled / 1e6:.0f} MB to {last / 1e6:.0f}")
    return wrong


def rss_bytes() -> int:
    """What this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
