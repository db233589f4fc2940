"""Mutated images: each gives pixels, or is refused by an ImageError that names it.

The originals are small valid files of all formats and of their rarer forms. Half of the attempts allow all
formats, as for training data, and half those that are read from strangers.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.campaign.workers import Counts, run_part
from vl2v_deploy.client import pixels_from_source
from vl2v_deploy.client.images import DEFAULT_LIMITS, TRUSTED
from vl2v_deploy.errors import ImageError

DOCUMENTED = (ImageError,)
SIDE_PX = 32
MOST_CHANGES = 4
LONGEST_BYTES = 2_000_000
EXTREMES = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xff\xff", b"\1\0\0\0")


@dataclass(frozen=True)
class Shared:
    """Valid files."""

    originals: tuple[bytes, ...]


def run(seed: int, count: int) -> Counts:
    """`count` mutated images, each made the pixels that a student takes."""
    return run_part(__name__, seed, count)


def prepared(_: Path) -> Shared:
    """The originals; nothing is written."""
    warnings.simplefilter("ignore")  # Pillow warns of damage
    return Shared(originals())


def attempt(shared: Shared, rng: random.Random) -> None:
    """Decode an image with up to four changes; some have none."""
    encoded = rng.choice(shared.originals)
    for _ in range(rng.randint(0, MOST_CHANGES)):
        encoded = rng.choice(CHANGES)(encoded, rng, shared.originals)[:LONGEST_BYTES]
    try:
        pixels = pixels_from_source(encoded, SIDE_PX, rng.choice((DEFAULT_LIMITS, TRUSTED)))
    except ImageError as error:
        if not str(error).startswith(f"<{len(encoded)} bytes>: ") or not str(error).isprintable():
            raise AssertionError(f"worded {str(error)!r}") from error
        raise
    if pixels.shape != (SIDE_PX, SIDE_PX, 3) or pixels.dtype != np.uint8:
        raise AssertionError(f"pixels of {pixels.dtype} {pixels.shape}")


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


def _place(data: bytes, rng: random.Random) -> int:
    """Half of the changes hit the first bytes, where the structure is."""
    return rng.randint(0, rng.choice((len(data), min(len(data), 200))))


def _other_bytes(data: bytes, rng: random.Random, _others: tuple[bytes, ...]) -> bytes:
    for _ in range(rng.randint(1, 8)):
        at = _place(data, rng)
        data = data[:at] + rng.randbytes(1) + data[at + 1 :]
    return data


def _extreme_number(data: bytes, rng: random.Random, _: tuple[bytes, ...]) -> bytes:
    at, width = _place(data, rng), rng.choice((1, 2, 4))
    return data[:at] + rng.choice(EXTREMES)[:width] + data[at + width :]


def _cut(data: bytes, rng: random.Random, _: tuple[bytes, ...]) -> bytes:
    return data[: _place(data, rng)]


def _removed(data: bytes, rng: random.Random, _: tuple[bytes, ...]) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.randint(1, 64) :]


def _inserted(data: bytes, rng: random.Random, _: tuple[bytes, ...]) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def _repeated(data: bytes, rng: random.Random, _: tuple[bytes, ...]) -> bytes:
    """A part again and again: scans, segments, chunks, blocks."""
    at, times = _place(data, rng), int(10 ** rng.uniform(0, 4))
    part = data[at : at + rng.randint(1, 200)]
    return data[:at] + part * times + data[at + len(part) :]


def _spliced(data: bytes, rng: random.Random, originals: tuple[bytes, ...]) -> bytes:
    """The beginning of one file and the end of another."""
    other = rng.choice(originals)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


CHANGES: tuple[Callable[[bytes, random.Random, tuple[bytes, ...]], bytes], ...] = (
    _other_bytes,
    _extreme_number,
    _cut,
    _removed,
    _inserted,
    _repeated,
    _spliced,
)
