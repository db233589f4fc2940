"""The client of paid embedding APIs against the fake vendor: rate, overhead, double payment under kills.

    python benchmarks/vendor_client.py

Rate: images a second that the vendor billed, against a limit of --images-per-minute that both sides know,
after the first five seconds. Overhead: the store's whole purchase (canaries, read, scale, encode, reserve,
send, journal, settle, fold) against two bare httpx loops from as many threads, in alternating rounds on
loopback: one reads, scales and encodes each image in the thread that posts it, which every client must; one
posts bodies that were made before. The vendor's bill is kept in memory there, where the system has such a
folder: its syncs would be waited for on the client's own disk. Vendor and client still share the cores.
Kills: buyers are killed at random moments of a purchase, and the vendor's bill is held against ledger and
store. Writes benchmarks/results/vendor_client_<device>.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

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
from vl2v_deploy.client.images import open_image
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.models.ledger.ledger import Budget, Ledger
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.teacher.http.images import encoded_image
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).resolve().parent / "results"
BATCH, CONCURRENCY, SIZE_PX, WARM_UP_S = 8, 8, 224, 5.0
T = TypeVar("T")


@click.command()
@click.option("--images-per-minute", default=1200, show_default=True, type=click.IntRange(60))
@click.option("--seconds", default=45.0, show_default=True, type=click.FloatRange(10.0))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
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
    before = report["overhead"]["ratio_to_encoded_before"]
    table.add_row("time against one whose bodies were made before", f"{before:.2f}")
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
    """Time of a purchase, and of bare loops over the same images, in alternating rounds."""
    paths = make_images(root / "images", 2000)
    seconds: dict[str, list[float]] = {"ours_s": [], "bare_s": [], "bare_encoded_before_s": []}
    with memory_folder() as memory, fake_vendor((memory or root) / "vendor") as vendor:
        for number in range(-1, rounds):  # the first one warms up
            start = time.perf_counter()
            purchase(root / str(number), vendor, paths)
            ours_s = time.perf_counter() - start
            ready = [body_of(part) for part in parts_of(paths)]
            taken = ours_s, bare(vendor, parts_of(paths), body_of), bare(vendor, ready, bytes)
            if number >= 0:
                for taken_s, each in zip(taken, seconds.values(), strict=True):
                    each.append(taken_s)
    ours_s, bare_s, before_s = (median(each) for each in seconds.values())
    ratios = {"ratio": ours_s / bare_s, "ratio_to_encoded_before": ours_s / before_s}
    return {"images": len(paths), "bill_in_memory": memory is not None, **seconds, **ratios}


@contextmanager
def memory_folder() -> Iterator[Path | None]:
    """A temporary folder that is on no disk; None where the system has none."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield None
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def bare(vendor: FakeVendor, parts: Sequence[T], body: Callable[[T], bytes]) -> float:
    """Seconds of posting the body of each part from as many threads; answers are only parsed."""
    url = f"{vendor.url('openai')}/v1/embeddings"
    with httpx.Client() as client, ThreadPoolExecutor(CONCURRENCY) as pool:

        def post(part: T) -> int:
            headers = {"Content-Type": "application/json"}
            answer = client.post(url, content=body(part), headers=headers).raise_for_status()
            return len(answer.json()["data"])

        start_s = time.perf_counter()
        assert all(items > 0 for items in pool.map(post, parts))
        return time.perf_counter() - start_s


def parts_of(paths: list[Path]) -> list[list[Path]]:
    """The images of each request."""
    return [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]


def body_of(paths: Sequence[Path]) -> bytes:
    """Reads, scales and encodes images, as they are sent by the client that is measured."""
    image = vendor_recipe("openai", image={"size_px": SIZE_PX}).image
    uris = [encoded_image(open_image(path), image).data_url for path in paths]
    body = {"model": "clip", "input": uris, "modality": "image", "encoding_format": "base64"}
    return json.dumps(body).encode()


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
    killed_buyers: dict[str, Any] = json.loads(done.stdout)
    return killed_buyers | {
        "images": len(paths),
        "held": len(images),
        "billed": len(bill),
        "settled": sums["settled"],
        "unknown": sums["unknown"],
        "paid_twice": images.total() - len(images),
    }


def purchase(root: Path, vendor: FakeVendor, paths: list[Path], **limits: Any) -> None:
    """Buys the images, through store, journal and ledger."""
    more = {"batch_size": BATCH, "concurrency": CONCURRENCY, "image": {"size_px": SIZE_PX}} | limits
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


if __name__ == "__main__":
    main()
