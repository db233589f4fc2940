"""Any image that the client is given -> a decoded Pillow image, or an ImageError that names it.

Dangerous files are refused before a pixel is decoded: files and pictures that are too large or take too much
work, and formats that are not for photographs (an EPS file is a program, which Pillow runs in Ghostscript).
Images from strangers are of the four formats of the web, whose cost is bounded; others are read when named.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, UnidentifiedImageError

from vl2v_deploy.client.decoding_work import (
    CountedFile,
    TooMuchWork,
    require_bounded_pixels,
    require_bounded_work,
)
from vl2v_deploy.errors import ImageError, did_you_mean
from vl2v_deploy.names import shown
from vl2v_deploy.regular_files import open_regular

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = str | Path | bytes | Image.Image | Pixels

# JPEG covers MPO, a JPEG with other pictures behind it.
WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
FORMATS = (*WEB_FORMATS, "BMP", "PPM", "TIFF", "AVIF", "JPEG2000")
# of those that Pillow does not import by itself; AVIF is new in Pillow 11.3
_PLUGINS = ("WebPImagePlugin", "TiffImagePlugin", "AvifImagePlugin", "Jpeg2KImagePlugin")

# The oldest Pillow without a hole in its decoders that is known: CVE-2026-59197 to 59200, CVE-2026-55798 and
# older ones. Only the newest release of Pillow is ever repaired.
SAFE_PILLOW = (12, 3)
_LOGGER = logging.getLogger("vl2v_deploy.client")

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
_MAGIC_BYTES = 16  # by which Pillow knows a format
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Limits:
    """What a client refuses, rather than decode or unpack it.

    max_pixels:        width x height of an image; Pillow itself refuses twice its own MAX_IMAGE_PIXELS
    max_bytes:         of an encoded image
    max_bundle_bytes:  of the files in a zipped bundle together
    formats:           of encoded images, of FORMATS; by default those whose decoding work is bounded
    decode_deadline_s: files and encoded bytes are decoded by other processes, which are killed when one image
                       takes them longer; it is refused then. None = here, in the calling thread. Heeded by
                       whatever makes RGB: a Student, MicroBatcher, Cascade, pixels_from_source, open_rgb
    trusted:           whether images are the user's own: then many scans of many pixels are decoded

    Raises ValueError for a limit below 1, a format that is not of FORMATS, a deadline that is not above 0.
    """

    max_pixels: int = 80_000_000
    max_bytes: int = 100_000_000
    max_bundle_bytes: int = 4 * 2**30
    formats: tuple[str, ...] = WEB_FORMATS
    decode_deadline_s: float | None = None
    trusted: bool = False

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_bundle_bytes"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} {value}: expected at least 1")
        for name in self.formats:
            if name not in FORMATS:
                known = f"expected {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}"
                raise ValueError(f"formats {name!r}: {known}")
        if self.decode_deadline_s is not None and not self.decode_deadline_s > 0:
            raise ValueError(f"decode_deadline_s {self.decode_deadline_s}: expected more than 0")


DEFAULT_LIMITS = Limits()
# For images that the user chose: training data, golden samples. All formats are read.
TRUSTED = Limits(formats=FORMATS, trusted=True)


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows, their plugins imported: else it would import all it has."""
    Image.preinit()
    for plugin in _PLUGINS:
        with suppress(ImportError):
            import_module(f"PIL.{plugin}")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def hole_in_pillow(version: str) -> str | None:
    """What is known against this version of Pillow, in words; None = nothing.

    >>> hole_in_pillow("10.4.0")
    'Pillow 10.4.0 has known holes in its decoders, which 12.3 closes'
    >>> hole_in_pillow("13.0.0")
    """
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found >= SAFE_PILLOW:
        return None
    return f"Pillow {version} has known holes in its decoders, which {SAFE_PILLOW[0]}.{SAFE_PILLOW[1]} closes"


@cache
def warn_of_old_pillow() -> None:
    """Log once in this process what is known against its Pillow."""
    if hole := hole_in_pillow(PIL.__version__):
        _LOGGER.warning(
            "%s: for images from strangers run pip install -U pillow, or decode them in other processes with "
            "Limits(decode_deadline_s=...)",
            hole,
        )


def source_name(source: object) -> str:
    r"""What errors call an image: its path as printable text, or what it is.

    >>> source_name("cat.jpg"), source_name("cat\n.jpg"), source_name(b"1234")
    ('cat.jpg', 'cat\\x0a.jpg', '<4 bytes>')
    """
    match source:
        case str() | Path():
            return shown(source)
        case bytes():
            return f"<{len(source)} bytes>"
        case np.ndarray():
            return "image array"
        case _:
            return "image"


def open_image(
    source: ImageSource, limits: Limits = DEFAULT_LIMITS, *, least_px: int | None = None
) -> Image.Image:
    """The decoded image, first frame; a Pillow image whose pixels are loaded.

    source:   a path, encoded bytes, a Pillow image, or uint8 pixels of shape (H, W, 3) or (H, W)
    limits:   but for decode_deadline_s, see `preprocess.open_rgb`
    least_px: decode a JPEG at 1/2, 1/4 or 1/8 of its size as long as neither side gets shorter than this;
              None = whole. Pillow images and arrays are taken as they are.

    Raises ImageError, naming the source, when it is missing, too large, truncated, no image that the client
    reads, or of another shape.
    """
    name = source_name(source)
    match source:
        case Image.Image():
            return _loaded(source, name, limits)
        case np.ndarray():
            return _image_from_array(source, name, limits)
        case bytes():
            return _decode(source, name, limits, least_px)
        case str() | Path():
            return _decode(read_encoded(source, limits), name, limits, least_px)
    raise ImageError(f"expected a path, bytes, Pillow image or uint8 array, got {type(source).__name__}")


def _image_from_array(pixels: Pixels, name: str, limits: Limits) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"{name}: expected uint8 of shape (H, W, 3) RGB or (H, W) grey, got {pixels.dtype} {pixels.shape}"
        )
    _require_pixels(name, (pixels.shape[1], pixels.shape[0]), limits)
    return Image.fromarray(np.asarray(pixels))


def read_encoded(source: str | Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a file, at most as many as allowed.

    Raises ImageError, naming the file, when it is missing, too large or no regular file.
    """
    path, name = Path(source), source_name(source)
    try:
        with open_regular(path) as file:
            length = os.fstat(file.fileno()).st_size
            _require_bytes(length, name, limits)
            return file.read(length)  # not to its end: it may be growing
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"{name}: cannot be read: {error}") from error


def holds_image(path: Path) -> bool:
    """Whether a regular file begins as an image that the client reads, whatever it is called.

    Nothing is decoded: a damaged image is one, too.
    """
    return path.is_file() and begins_as_image(path)


def begins_as_image(source: Path | IO[bytes]) -> bool:
    """Whether a regular file, or what is read from an open one, begins as an image that the client reads."""
    try:
        with Image.open(source, formats=_formats()):
            return True
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:  # Pillow's readers of headers raise anything for what is not theirs
        return False


def _require_bytes(length: int, name: str, limits: Limits) -> None:
    if length > limits.max_bytes:
        raise ImageError(f"{name}: {length} bytes, more than {limits.max_bytes}: refused (Limits.max_bytes)")


def _require_pixels(name: str, size: tuple[int, int], limits: Limits, what: str = "") -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: holds no pixel: {width} x {height}")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name}: {what}{width} x {height}, more than {limits.max_pixels} pixels: refused "
            "(Limits.max_pixels)"
        )


def _decode(encoded: bytes, name: str, limits: Limits, least_px: int | None) -> Image.Image:
    if not encoded:
        raise ImageError(f"{name}: is empty")
    _require_bytes(len(encoded), name, limits)
    format = _format_of(encoded, name, limits)
    try:
        require_bounded_work(encoded, format, None if limits.trusted else limits.max_pixels)
        image = Image.open(CountedFile(encoded), formats=(format,))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is damaged or truncated: no picture is found in this {format}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: too many pixels for PIL.Image.MAX_IMAGE_PIXELS: refused") from error
    except Exception as error:
        raise _unusable(name, error) from error
    return _loaded(image, name, limits, least_px)


def _format_of(encoded: bytes, name: str, limits: Limits) -> str:
    """Pillow's name of the format that the first bytes show, which must be one that is allowed."""
    magic, read = encoded[:_MAGIC_BYTES], ", ".join(limits.formats)
    for format in _formats():
        accepts = Image.OPEN[format][1]
        if accepts is not None and accepts(magic) is True:
            if format in limits.formats:
                return format
            raise ImageError(
                f"{name}: its format is {format}, read are {read}. To read it too, name it: "
                f"Limits(formats=...), on the command line --allow-format {format}"
            )
    raise ImageError(f"{name}: is not an image that the client reads: {read}")


def _loaded(image: Image.Image, name: str, limits: Limits, least_px: int | None = None) -> Image.Image:
    """The image with its pixels decoded; ImageError when it is too large or that cannot be done."""
    _require_pixels(name, image.size, limits)
    if tile := _tile_size(image):
        _require_pixels(name, tile, limits, "tiles of ")
    try:
        require_bounded_pixels(image)
        if least_px is not None:
            image.draft(None, (least_px, least_px))  # only JPEG heeds it
        image.load()
    except Exception as error:
        raise _unusable(name, error) from error
    return image


def _tile_size(image: Image.Image) -> tuple[int, int] | None:
    """Of a TIFF's tiles, each decoded whole, however small the image is; None where there are none."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _unusable(name: str, error: Exception) -> ImageError:
    """Why Pillow gave up; damaged bytes make its decoders raise anything: struct.error, MemoryError, ..."""
    if isinstance(error, TooMuchWork):
        return ImageError(f"{name}: takes too long to decode: {error}: refused")
    return ImageError(f"{name}: is damaged or truncated: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """The first line of another library's error as printable text, cut; its type where it says nothing."""
    first = str(error).partition("\n")[0]
    return shown(first)[:_LONGEST_REASON] or type(error).__name__
