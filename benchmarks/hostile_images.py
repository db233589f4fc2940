"""Encoded images that a service on the internet meets: ordinary, unusual and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def ordinary_images(count: int, seed: int = 0) -> dict[str, bytes]:
    """JPEG, PNG and WebP files of 32 to 400 pixels a side, no two alike, by name."""
    rng = np.random.default_rng(seed)
    images = {}
    for number in range(count):
        form = ("JPEG", "PNG", "WEBP")[number % 3]
        height, width = rng.integers(32, 400, 2)
        # few large fields of colour: what a student tells apart better than noise
        fields = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        image = fields.resize((int(width), int(height)), Image.Resampling.BICUBIC)
        images[f"{number} {form}"] = encoded(image, form)
    return images


def unusual_images(seed: int = 1) -> dict[str, bytes]:
    """Images of rare forms that must be answered like any other, by name."""
    rng = np.random.default_rng(seed)
    colour = Image.fromarray(rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)).resize((160, 120))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [colour.rotate(90 * turn) for turn in (1, 2)]
    deep = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    return {
        "CMYK JPEG": encoded(colour.convert("CMYK"), "JPEG"),
        "16-bit PNG": encoded(Image.fromarray(deep), "PNG"),
        "animated GIF": encoded(colour, "GIF", save_all=True, append_images=frames),
        "animated WebP": encoded(colour, "WEBP", save_all=True, append_images=frames),
        "EXIF-rotated JPEG": encoded(colour, "JPEG", exif=turned),
        "greyscale JPEG": encoded(colour.convert("L"), "JPEG"),
        "palette PNG": encoded(colour.convert("P"), "PNG"),
        "transparent PNG": encoded(colour.convert("RGBA").rotate(30), "PNG"),
        "bilevel PNG": encoded(colour.convert("1"), "PNG"),
        "1x1 PNG": encoded(colour.crop((0, 0, 1, 1)), "PNG"),
        "4000x1 PNG": encoded(colour.resize((4000, 1)), "PNG"),
        "1x4000 PNG": encoded(colour.resize((1, 4000)), "PNG"),
        "large JPEG": encoded(colour.resize((1600, 1200)), "JPEG"),
    }


def hostile_images(seed: int = 2) -> dict[str, bytes]:
    """Bytes that must be refused with an ImageError, by name."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (90, 110, 3), dtype=np.uint8))
    jpeg, png, webp = (encoded(noise, form) for form in ("JPEG", "PNG", "WEBP"))
    return {
        "empty": b"",
        "text": b"no picture, sorry\n" * 50,
        "HTML": b"<!doctype html><title>404</title><h1>Not Found</h1>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "TIFF": encoded(noise, "TIFF"),
        "ZIP": b"PK\x03\x04" + bytes(100),
        "zeros": bytes(5000),
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "truncated PNG": png[: len(png) // 2],
        "truncated WebP": webp[: len(webp) // 2],
        "head of a PNG": png[:20],
        "PNG bomb": png_of_zeros(30_000, 30_000),
        "tall PNG bomb": png_of_zeros(1, 2_000_000_000),
    }


def png_of_zeros(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge and does not hold what it claims."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The image as bytes of a file of that form."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()
