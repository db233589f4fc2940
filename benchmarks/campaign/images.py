"""Mutated images, decoded by the client: each must give pixels or an ImageError, within 5 CPU-seconds.

python benchmarks/campaign/images.py --count 2000 --seed 0

Image number n of a seed is always the same, so that what is found can be made again: `mutated(seed, n)`. They
are decoded in a process that the system ends when one image takes it too much processor time.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vl2v_deploy.client import Limits, pixels_from_source
from vl2v_deploy.client.images import DEFAULT_LIMITS, TRUSTED
from vl2v_deploy.errors import ImageError

OUTCOMES = ("ok", "image_error", "foreign_error", "crash", "hang")
MOST_CPU_S = 5.0
SIDE_PX = 32
LONGEST_BYTES = 2_000_000
Rng = np.random.Generator


def run(seed: int, count: int) -> dict[str, int]:
    """How many of the first `count` mutated images of a seed ended how; keys are OUTCOMES.

    What is no pixels and no ImageError is told on standard error, by its seed and number.
    """
    counts = dict.fromkeys(OUTCOMES, 0)
    first = 0
    while first < count:
        for number, outcome, said in _outcomes(seed, first, count):
            counts[outcome] += 1
            first = number + 1
            if said:
                print(f"image {number} of seed {seed}: {outcome}: {said}", file=sys.stderr)
    return counts


def _outcomes(seed: int, first: int, end: int) -> Iterator[tuple[int, str, str]]:
    """(number, outcome, what is to be told) of images, by one process; ends with an image that it died of."""
    command = [sys.executable, str(Path(__file__)), "--worker", str(seed), str(first), str(end)]
    number = first
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield (number, *json.loads(line))
            number += 1
    if number == end:
        return
    if process.returncode >= 0:
        raise RuntimeError(f"the decoding process ended with {process.returncode} at image {number}")
    died_of = signal.Signals(-process.returncode)
    if died_of == signal.SIGPROF:
        yield number, "hang", f"{MOST_CPU_S:g} CPU-seconds"
    else:
        yield number, "crash", died_of.name


def _work(seed: int, first: int, end: int) -> None:
    """In the process: a line for each image."""
    warnings.simplefilter("ignore")  # Pillow warns of damage
    for number in range(first, end):
        encoded = mutated(seed, number)
        signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)  # nobody catches it: the system ends the process
        outcome, said = _decoded(encoded, DEFAULT_LIMITS if number % 2 else TRUSTED)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([outcome, said]), flush=True)


def _decoded(encoded: bytes, limits: Limits) -> tuple[str, str]:
    try:
        pixels = pixels_from_source(encoded, SIDE_PX, limits)
    except ImageError as error:
        clean = str(error).isprintable() and str(error).startswith(f"<{len(encoded)} bytes>: ")
        return ("image_error", "") if clean else ("foreign_error", f"worded {str(error)!r}")
    except Exception as error:
        return "foreign_error", f"{type(error).__name__}: {error}"[:200]
    if pixels.shape != (SIDE_PX, SIDE_PX, 3):
        return "foreign_error", f"pixels of shape {pixels.shape}"
    return "ok", ""


def mutated(seed: int, number: int) -> bytes:
    """A valid image with one to four changes; every eighth has none."""
    rng = np.random.default_rng([seed, number])
    files = originals()
    data = files[int(rng.integers(len(files)))]
    if number % 8:
        for _ in range(int(rng.integers(1, 5))):
            change = CHANGES[int(rng.integers(len(CHANGES)))]
            data = change(data, rng)[:LONGEST_BYTES]
    return data


@cache
def originals() -> tuple[bytes, ...]:
    """Small valid images of all formats and of their rarer forms."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((61, 43))
    grey16 = Image.fromarray(rng.integers(0, 65536, (23, 31)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    more: dict[str, Any] = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    forms: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "JPEG", {"exif": turned}),
        (colour, "JPEG", {"progressive": True, "icc_profile": bytes(999)}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("L"), "JPEG", {"comment": b"a comment"}),
        (colour, "MPO", more),
        (colour, "PNG", {"exif": turned}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour.convert("1"), "PNG", {}),
        (grey16, "PNG", {"icc_profile": bytes(999)}),
        (colour, "PNG", more),
        (colour, "WEBP", {"exif": turned}),
        (colour.convert("RGBA"), "WEBP", {"lossless": True}),
        (colour, "WEBP", more),
        (colour, "GIF", more),
        (colour.convert("P"), "GIF", {"transparency": 3, "interlace": 1, "comment": b"a comment"}),
        (colour, "BMP", {}),
        (colour.convert("1"), "BMP", {}),
        (colour, "PPM", {}),
        (grey16, "PPM", {}),
        (colour, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (grey16, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (colour, "JPEG2000", {}),
    ]
    files = [_file(image, form, options) for image, form, options in forms]
    return (*files, b"P1 # plain\n7 5\n" + b"1 0 " * 18, b"P3 3 2 200\n" + b"9 99 199 " * 6)


def _file(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _place(data: bytes, rng: Rng) -> int:
    """Half of the changes hit the first bytes, where the structure is."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 200)
    return int(rng.integers(end + 1))


def _other_bytes(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if data:
            changed[min(_place(data, rng), len(data) - 1)] = int(rng.integers(256))
    return bytes(changed)


def _extreme_number(data: bytes, rng: Rng) -> bytes:
    extremes = (
        b"\0" * 4,
        b"\xff" * 4,
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\0\0\xff\xff",
        b"\1\0\0\0",
    )
    at, width = _place(data, rng), int(rng.choice([1, 2, 4]))
    return data[:at] + extremes[int(rng.integers(len(extremes)))][:width] + data[at + width :]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: _place(data, rng)]


def _removed(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _inserted(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def _repeated(data: bytes, rng: Rng) -> bytes:
    """A part again and again: scans, segments, chunks, blocks."""
    at, times = _place(data, rng), int(10 ** rng.uniform(0, 4))
    part = data[at : at + int(rng.integers(1, 200))]
    return data[:at] + part * times + data[at + len(part) :]


def _spliced(data: bytes, rng: Rng) -> bytes:
    """The beginning of one file and the end of another."""
    files = originals()
    other = files[int(rng.integers(len(files)))]
    return data[: _place(data, rng)] + other[_place(other, rng) :]


CHANGES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    _other_bytes,
    _extreme_number,
    _cut,
    _removed,
    _inserted,
    _repeated,
    _spliced,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument(
        "--worker", type=int, nargs=3, metavar=("SEED", "FIRST", "END"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.worker:
        _work(*arguments.worker)
        return
    counts = run(arguments.seed, arguments.count)
    print(json.dumps(counts))
    sys.exit(any(counts[bad] for bad in ("foreign_error", "crash", "hang")))


if __name__ == "__main__":
    main()
