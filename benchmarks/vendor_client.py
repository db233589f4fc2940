"""The client of paid embedding APIs against the fake vendor: rate, overhead, double payment under kills.

    python benchmarks/vendor_client.py

Rate: images a second that the vendor billed, against a limit of --images-per-minute that both sides know,
after the first five seconds. Overhead: the store's whole purchase (encode, reserve, send, journal, settle,
fold) against a bare httpx loop that posts the same images from as many threads, encoded before, in
alternating rounds on loopback. Kills: buyers are killed at random moments of a purchase, and the vendor's
bill is held against ledger and store. Writes benchmarks/results/vendor_client_<device>.json.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.helpers.fake_vendor import FakeVendor, fake_vendor, pixels_sha256
from tests.helpers.killed_buyers import buy
from tests.helpers.vendor_recipes import vendor_recipe, vendor_teacher
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.models.ledger.ledger import Budget, Ledger
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).resolve().parent / "results"
BATCH, CONCURRENCY, WARM_UP_S = 8, 8, 5.0


@click.command()
@click.option("--images-per-minute", default=1200, show_default=True, type=click.IntRange(60))
@click.option("--seconds", default=45.0, show_default=True, type=click.FloatRange(10.0))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--kills", default=60, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(images_per_minute: int, seconds: float, rounds: int, kills: int, out: Path | None) -> None:
    """Measure the client of paid embedding APIs."""
    report: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/vendor_client.py --images-per-minute {images_per_minute} "
        f"--seconds {seconds:g} --rounds {rounds} --kills {kills}",
        "device": describe_device(),
        "versions": package_versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        report["rate"] = rate(Path(folder) / "rate", images_per_minute, seconds)
        report["overhead"] = overhead(Path(folder) / "overhead", rounds)
        report["kills"] = killed(Path(folder) / "kills", kills)
    table = Table("what", "measured", title="Client of paid embedding APIs")
    table.add_row("rate reached, of the limit", f"{report['rate']['reached']:.3f}")
    table.add_row("requests that were refused (429)", str(report["rate"]["refused"]))
    table.add_row("time against a bare httpx loop", f"{report['overhead']['ratio']:.2f}")
    table.add_row("kills", str(report["kills"]["killed"]))
    table.add_row("images paid twice", str(report["kills"]["paid_twice"]))
    table.add_row("possibly paid, says the ledger", str(report["kills"]["unknown"]))
    Console().print(table)
    file = out or RESULTS / f"vendor_client_cpu-{default_threads().count}core.json"
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def rate(root: Path, images_per_minute: int, seconds: float) -> dict[str, Any]:
    """How much of a limit is used."""
    paths = make_images(root / "images", int(images_per_minute * seconds / 60))
    with fake_vendor(root / "vendor", images_per_minute=images_per_minute, latency_s=0.1) as vendor:
        purchase(root, vendor, paths, images_per_minute=images_per_minute)
        bill, refused = vendor.bill(), vendor.control()["rate_limited"]
    start = bill[0].at + WARM_UP_S
    steady = [item.at for item in bill if start <= item.at < bill[-1].at - 0.005]
    reached = 60.0 * len(steady) / (bill[-1].at - start) / images_per_minute
    return {"limit_a_minute": images_per_minute, "reached": reached, "refused": refused, "images": len(bill)}


def overhead(root: Path, rounds: int) -> dict[str, Any]:
    """Time of a purchase, and of a bare loop over the same bodies, in alternating rounds."""
    paths = make_images(root / "images", 1000)
    ours_s, bare_s = [], []
    with fake_vendor(root / "vendor") as vendor:
        for number in range(rounds):
            start = time.perf_counter()
            purchase(root / str(number), vendor, paths)
            ours_s.append(time.perf_counter() - start)
            bare_s.append(bare(vendor, paths))
    return {"images": 1000, "ours_s": ours_s, "bare_s": bare_s, "ratio": median(ours_s) / median(bare_s)}


def bare(vendor: FakeVendor, paths: list[Path]) -> float:
    """Seconds of posting all images, encoded before, from as many threads; answers are only parsed."""
    bodies = []
    for start in range(0, len(paths), BATCH):
        encoded = [base64.b64encode(_png(path)).decode() for path in paths[start : start + BATCH]]
        uris = [f"data:image/png;base64,{each}" for each in encoded]
        bodies.append({"model": "clip", "input": uris, "modality": "image", "encoding_format": "float"})
    with httpx.Client() as client, ThreadPoolExecutor(CONCURRENCY) as pool:
        start_s = time.perf_counter()
        url = f"{vendor.url('openai')}/v1/embeddings"
        for answer in pool.map(lambda body: client.post(url, json=body), bodies):
            assert len(answer.raise_for_status().json()["data"]) > 0
        return time.perf_counter() - start_s


def killed(root: Path, kills: int) -> dict[str, Any]:
    """What kill -9 at random moments of a purchase costs."""
    paths = make_images(root / "images", 1000)
    with fake_vendor(root / "vendor", latency_s=0.05) as vendor:
        command = [sys.executable, "-m", "tests.helpers.killed_buyers", str(root), vendor.url("openai")]
        done = subprocess.run([*command, str(kills), "1"], capture_output=True, text=True, check=True)
        buy(root, vendor.url("openai"))
        bill = vendor.bill()
    small = {pixels_sha256(Image.open(path).convert("RGB")) for path in (root / "store").rglob("image-*.png")}
    images = Counter(item.sha256 for item in bill if item.sha256 not in small)
    sums: Counter[str] = Counter()
    for entry in Ledger(root / "ledger.sqlite", Budget(None, None)).entries():
        sums[entry.state] += entry.images
    return json.loads(done.stdout) | {
        "images": len(paths),
        "held": len(images),
        "billed": len(bill),
        "settled": sums["settled"],
        "unknown": sums["unknown"],
        "paid_twice": images.total() - len(images),
    }


def purchase(root: Path, vendor: FakeVendor, paths: list[Path], **limits: Any) -> None:
    """Buys the images, through store, journal and ledger."""
    more = {"batch_size": BATCH, "concurrency": CONCURRENCY, "image": {"size_px": 224}} | limits
    teacher, _ = vendor_teacher(root, vendor_recipe("openai", vendor.url("openai"), **more))
    EmbeddingStore(root / "store", teacher).embed(paths)


def make_images(folder: Path, count: int) -> list[Path]:
    """Images of 85 x 68 px, larger than a canary."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((85, 68), 0).save(folder / f"{number:05d}.png")
    return sorted(folder.glob("*.png"))


def _png(path: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
