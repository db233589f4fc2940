"""Small files that would keep a decoder busy for a long time, each made for one weakness."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

from PIL import Image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG of one colour, whose last scan comes again and again."""
    flat = encoded(Image.new("RGB", (width, height), "teal"), "JPEG", progressive=True)
    own = [found.start() for found in re.finditer(rb"\xff\xda", flat)]
    last = flat[own[-1] : -2]  # without the end of image
    return flat[:-2] + last * (scans - len(own)) + b"\xff\xd9"


def jpeg_with(middle: bytes, side_px: int = 32) -> bytes:
    """A JPEG with these bytes before its first segment."""
    plain = encoded(Image.new("RGB", (side_px, side_px), "teal"), "JPEG")
    return plain[:2] + middle + plain[2:]


def segment(kind: int, content: bytes = b"") -> bytes:
    """Of a JPEG."""
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def png_with(chunks: bytes, side_px: int = 8) -> bytes:
    """A PNG with these chunks after its header."""
    plain = encoded(Image.new("RGB", (side_px, side_px), "teal"), "PNG")
    return plain[:33] + chunks + plain[33:]


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def gif_with(blocks: bytes) -> bytes:
    """A GIF with these blocks before its first frame."""
    plain = encoded(Image.new("L", (8, 8), 7), "GIF")
    start = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:start] + blocks + plain[start:]


def webp_of_frames(frames: int) -> bytes:
    """An animated WebP that lists its second frame again and again."""
    first, second = Image.new("RGB", (16, 16), "teal"), Image.new("RGB", (16, 16), "red")
    plain = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    start = plain.rindex(b"ANMF")
    content = plain[12:] + plain[start:] * (frames - 2)
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def bmp_of_run_lengths(width: int, height: int, pixels: bytes) -> bytes:
    """A BMP of 256 greys whose pixels are run-length encoded."""
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    start = 14 + len(size) + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return head + size + palette + pixels
