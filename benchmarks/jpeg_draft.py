"""What decoding large JPEGs at a fraction of their size costs in accuracy, and what it saves in time.

    pip install resvg_py
    python benchmarks/jpeg_draft.py bundles/quickstart

EmojiDG's test concepts are drawn anew at 512 and 1024 px from the pinned npm packages (kept in the cache
folder) and stored as JPEG. Each image is decoded whole, and at a fraction with neither side under 1, 2 and 3
times the student's input S; 2 is what the client does. All are answered by the fp32 file of the bundle.
Decodings are timed in turn, on one thread, so that drift hits all alike. Writes
benchmarks/results/jpeg_draft_<device>.json.

The style fluent-3d is left out: its package holds pictures of 256 px, not drawings.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np
from PIL import features

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.emojidg.concepts import Concept, load_concepts
from benchmarks.emojidg.drawings import DOMAINS, EMOJIBASE, Style, install_packages
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import Student
from vl2v_deploy.client.preprocess import DRAFT_MARGIN, Pixels, open_image, preprocess
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.data.emojidg import GROUPS, emojidg_root
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).parent / "results"
STYLES = [style for style in DOMAINS if style != "fluent-3d"]
SIZES_PX = (512, 1024)
QUALITY = 90
# how decoding is named -> least side in units of S; None = whole
MARGINS = {"whole": None, "1 S": 1, "2 S": 2, "3 S": 3}
TIMED, BATCH = 200, 32


@dataclass(frozen=True)
class Drawing:
    """A test image: its style, its class, and its bytes as a JPEG."""

    style: str
    label: str
    jpeg: bytes


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--packages", type=click.Path(path_type=Path), help="npm folder.  [default: in the cache folder]"
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundle: Path, packages: Path | None, out: Path | None) -> None:
    """Decode large JPEGs whole and at a fraction for BUNDLE, which must know EmojiDG's classes."""
    folder = packages or cache_dir() / "emojidg-packages"
    modules = install_packages(folder, {style: DOMAINS[style] for style in STYLES})
    try:
        with Student.load(bundle, precision="fp32", threads=1) as student:
            sizes = {size_px: measured(student, modules, size_px) for size_px in SIZES_PX}
            report = record(bundle, student, sizes)
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    path = out or RESULTS / f"jpeg_draft_cpu-{default_threads().count}core.json"
    text = json.dumps(report, indent=1)
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")
    for size_px, facts in report["sizes_px"].items():
        for name, decoding in facts["decodings"].items():
            click.echo(line(size_px, name, decoding))
    click.echo(f"Written to {path}")


def drawings(modules: Path, size_px: int, classes: Sequence[str]) -> list[Drawing]:
    """Every test concept in every style, drawn at a size and encoded as cameras do."""
    known = load_concepts(modules / EMOJIBASE.name)
    concepts = {f"{concept.category}/{concept.name}": concept for concept in known}
    artists = {style: Style(modules, DOMAINS[style]) for style in STYLES}
    wanted = [(style, concept) for style in STYLES for concept in test_concepts(style, concepts)]

    def drawn(style: str, concept: Concept) -> Drawing:
        picture = artists[style].draw(concept.code, concept.label, size_px)
        if picture is None or concept.category is None or concept.category not in classes:
            raise click.ClickException(f"{style}: no drawing of {concept.name}, or no class for it")
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=QUALITY)  # 4:2:0, Pillow's default and a camera's
        return Drawing(style, concept.category, jpeg.getvalue())

    with ThreadPoolExecutor() as pool:
        return list(pool.map(drawn, *zip(*wanted, strict=True)))


def test_concepts(style: str, concepts: dict[str, Concept]) -> list[Concept]:
    """Those that nothing was trained or chosen on."""
    with (emojidg_root() / GROUPS).open(encoding="utf-8") as file:
        rows = [row["image"].partition("/") for row in csv.DictReader(file) if row["split"] == "test"]
    return [concepts[name.removesuffix(".webp")] for domain, _, name in rows if domain == style]


def measured(student: Student, modules: Path, size_px: int) -> dict[str, Any]:
    """Accuracy, agreement, pixel differences and times of each decoding of images of one size."""
    images = drawings(modules, size_px, student.classes)
    labels = np.array([student.classes.index(image.label) for image in images])
    styles = np.array([image.style for image in images])
    pixels = {
        name: np.stack([decoded(image.jpeg, margin, student) for image in images])
        for name, margin in MARGINS.items()
    }
    logits = {name: answers(student, rows) for name, rows in pixels.items()}
    samples_s = timed([image.jpeg for image in images[:: max(1, len(images) // TIMED)]], student)
    return {
        "images": len(images),
        "mean_jpeg_bytes": round(float(np.mean([len(image.jpeg) for image in images]))),
        "decodings": {
            name: compared(pixels, logits, labels, styles, name) | times(samples_s, name) for name in MARGINS
        },
    }


def decoded(jpeg: bytes, margin: int | None, student: Student) -> Pixels:
    """The image as the student takes it; uint8 (S, S, 3)."""
    size_px = student.bundle.image_size_px
    return preprocess(open_image(jpeg, least_px=margin and margin * size_px), size_px)


def answers(student: Student, pixels: Pixels) -> Any:
    """Logits (N, K) of preprocessed images (N, S, S, 3)."""
    return np.concatenate([student.run(pixels[i : i + BATCH])[0] for i in range(0, len(pixels), BATCH)])


def compared(pixels: Any, logits: Any, labels: Any, styles: Any, name: str) -> dict[str, Any]:
    """A decoding beside that of the whole image: accuracy, labels, pixels, logits."""
    found, whole = logits[name].argmax(1), logits["whole"].argmax(1)
    apart = np.abs(pixels[name].astype(np.int16) - pixels["whole"].astype(np.int16))
    return {
        "accuracy": float((found == labels).mean()),
        "accuracy_by_style": {style: float((found == labels)[styles == style].mean()) for style in STYLES},
        "right_only_here": int(((found == labels) & (whole != labels)).sum()),
        "right_only_whole": int(((found != labels) & (whole == labels)).sum()),
        "same_label_as_whole": float((found == whole).mean()),
        "mean_pixel_difference": float(apart.mean()),
        "p99_pixel_difference": float(np.percentile(apart, 99)),
        "max_pixel_difference": int(apart.max()),
        "max_logit_difference": float(np.abs(logits[name] - logits["whole"]).max()),
    }


def timed(jpegs: Sequence[bytes], student: Student) -> dict[str, list[float]]:
    """Seconds from JPEG bytes to pixels, by decoding; every image in every decoding, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in MARGINS}
    for jpeg in [jpegs[0], *jpegs]:  # the first one twice: it warms up, and is then left out
        for name, margin in MARGINS.items():
            started = perf_counter()
            decoded(jpeg, margin, student)
            samples[name].append(perf_counter() - started)
    return {name: seconds[1:] for name, seconds in samples.items()}


def times(samples_s: dict[str, list[float]], name: str) -> dict[str, Any]:
    """Median and ratio, beside the raw samples; the ratio is of medians of the same run."""
    return {
        "median_ms": 1e3 * median(samples_s[name]),
        "times_as_fast_as_whole": median(samples_s["whole"]) / median(samples_s[name]),
        "samples_ms": [round(1e3 * seconds, 4) for seconds in samples_s[name]],
    }


def record(bundle: Path, student: Student, sizes: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """All that the JSON file says."""
    manifest = student.bundle.manifest
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/jpeg_draft.py {bundle}",
        "device": describe_device(),
        "versions": package_versions() | {"libjpeg-turbo": features.version("libjpeg_turbo")},
        "threads": 1,
        "bundle": {
            "backbone": manifest.student.backbone,
            "image_size_px": student.bundle.image_size_px,
            "file": to_json(manifest.files[manifest.precisions["fp32"].file]),
        },
        "client_margin": DRAFT_MARGIN,
        "jpeg_quality": QUALITY,
        "styles": STYLES,
        "sizes_px": {str(size_px): facts for size_px, facts in sizes.items()},
    }


def line(size_px: str, name: str, decoding: dict[str, Any]) -> str:
    """One line of the terminal's summary."""
    return (
        f"{size_px} px, {name}: accuracy {100 * decoding['accuracy']:.2f} %, same label as whole "
        f"{100 * decoding['same_label_as_whole']:.2f} %, pixels {decoding['mean_pixel_difference']:.2f} "
        f"apart (most {decoding['max_pixel_difference']}), {decoding['median_ms']:.2f} ms, "
        f"{decoding['times_as_fast_as_whole']:.2f} x as fast"
    )


if __name__ == "__main__":
    main()
