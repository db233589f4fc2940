"""What an encoded image costs to decode beside its pixels, bounded by counting: reads, scans, segments.

Pixels are not the whole of it. Every scan of a progressive JPEG passes over all of them again; Pillow takes
many files apart in Python, a few bytes a read; some formats it decodes in Python altogether. What is counted
before decoding is counted in one pass over the bytes, which ends at the bound.

Of JPEG, PNG, WebP and GIF this bounds all that is known to cost time. What BMP, PPM, TIFF, AVIF and JPEG 2000
files can cost, only a deadline bounds as a whole.
"""

from __future__ import annotations

import io
import re
import struct
from math import inf

from PIL import Image

MOST_READS = 1_000_000  # of a file while it is opened and decoded; a large PNG takes some 50,000
# libjpeg writes 10 scans, mozjpeg some 20
MOST_SCANS = 64
MOST_FULL_SCANS = 25  # of as many pixels as are allowed; of fewer pixels more, up to MOST_SCANS
# of JPEG; depth and gain maps take hundreds, a colour profile at most 255
MOST_SEGMENTS = 4096
MOST_EXIF_SEGMENTS = 16  # at each Pillow copies all of those before
MOST_PROFILES = 64  # of PNG, each of which Pillow unpacks to at most 1 MB
MOST_FRAMES = 16_384  # of WebP: only the first is decoded, but all are listed
MOST_COMMENTS = 1000  # of plain PPM: at each Pillow copies up to a megabyte
MOST_SAMPLES_IN_PYTHON = 10_000_000  # pixels x channels, at up to 0.3 us each

# What ends entropy-coded data: not stuffed zeros, fill bytes or restarts.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_WITHOUT_LENGTH = (0x01, 0xD8, _EOI)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF: height and width
_DECODED_IN_PYTHON = ("bmp_rle", "ppm_plain", "ppm")


class TooMuchWork(Exception):
    """What is too much, in words; no error that Pillow takes for damage and goes on after."""


class CountedFile(io.BytesIO):
    """An encoded image that Pillow can read only so often: each part of a file costs it a read or more.

    reads_left: before TooMuchWork is raised
    """

    def __init__(self, encoded: bytes) -> None:
        super().__init__(encoded)
        self.reads_left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """As of BytesIO; raises TooMuchWork at one read too many."""
        self.reads_left -= 1
        if self.reads_left < 0:
            raise TooMuchWork(f"more than {MOST_READS} parts")
        return super().read(size)


def require_bounded_work(encoded: bytes, format: str, max_pixels: int | None) -> None:
    """Raises TooMuchWork for a file that would take its decoder too long, whatever its pixels.

    Damage is not looked for: the decoder will find it.

    format:     Pillow's name of it
    max_pixels: of an image; bounds its pixels times its scans, too. None = as many as there are
    """
    match format:
        case "JPEG":
            _require_few_scans(encoded, max_pixels)
        case "PNG":
            _require_few(encoded, b"iCCP", MOST_PROFILES, "colour profiles")
        case "WEBP":
            _require_few(encoded, b"ANMF", MOST_FRAMES, "frames")
        case "PPM" if encoded[1:2] in b"123":
            _require_few(encoded, b"#", MOST_COMMENTS, "comments")


def require_bounded_pixels(image: Image.Image) -> None:
    """Raises TooMuchWork for an opened image that has too many pixels for a decoder written in Python."""
    if not any(tile[0] in _DECODED_IN_PYTHON for tile in getattr(image, "tile", ())):
        return
    if image.width * image.height * len(image.getbands()) > MOST_SAMPLES_IN_PYTHON:
        raise TooMuchWork(f"{image.width} x {image.height} pixels in a form that is slow to decode")
    if isinstance(file := getattr(image, "fp", None), CountedFile):
        file.reads_left = MOST_SAMPLES_IN_PYTHON  # each pixel may be read by itself


def _require_few(encoded: bytes, mark: bytes, most: int, what: str) -> None:
    """Marks are counted wherever they stand: by chance one is not in compressed data often enough."""
    if encoded.count(mark) > most:
        raise TooMuchWork(f"more than {most} {what}")


def _require_few_scans(jpeg: bytes, max_pixels: int | None) -> None:
    """Walks from marker to marker up to the end of the picture, as libjpeg does."""
    most_scanned = inf if max_pixels is None else MOST_FULL_SCANS * max_pixels
    at, segments, scans, exifs, pixels = 2, 0, 0, 0, 0
    while found := _MARKER.search(jpeg, at):
        kind, at = found[1][0], found.end()
        if kind == _EOI and scans:
            return
        segments += 1
        scans += kind == _SOS
        exifs += kind == _APP1 and jpeg.startswith(b"Exif\0\0", at + 2)
        if kind in _FRAMES and len(jpeg) >= at + 7:
            height, width = struct.unpack_from(">HH", jpeg, at + 3)
            pixels = max(pixels, width * height)
        if kind not in _WITHOUT_LENGTH:
            at += max(2, int.from_bytes(jpeg[at : at + 2], "big"))
        for count, most, what in (
            (segments, MOST_SEGMENTS, "segments"),
            (scans, MOST_SCANS, "scans"),
            (exifs, MOST_EXIF_SEGMENTS, "segments of EXIF"),
        ):
            if count > most:
                raise TooMuchWork(f"more than {most} {what}")
        if scans > 1 and scans * pixels > most_scanned:
            raise TooMuchWork(f"at least {scans} scans of {pixels} pixels")
