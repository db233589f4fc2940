"""Any image that the client is given -> a decoded Pillow image, or an ImageError that names it.

Dangerous files are refused by their header, before a pixel is decoded: files and pictures that are too large,
and formats that are not for photographs (an EPS file is a program, which Pillow runs in Ghostscript).
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from vl2v_deploy.errors import ImageError
from vl2v_deploy.regular_files import open_regular

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = str | Path | bytes | Image.Image | Pixels

# In the order in which they are tried. JPEG covers MPO, a JPEG with other pictures behind it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000")
# of those that Pillow does not import by itself; AVIF is new in Pillow 11.3
_PLUGINS = ("WebPImagePlugin", "TiffImagePlugin", "AvifImagePlugin", "Jpeg2KImagePlugin")

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


@dataclass(frozen=True)
class Limits:
    """What a client refuses, rather than decode or unpack it.

    max_pixels:       width x height of an image; Pillow itself refuses twice its own MAX_IMAGE_PIXELS
    max_bytes:        of an encoded image
    max_bundle_bytes: of the files in a zipped bundle together

    Raises ValueError for a limit below 1.
    """

    max_pixels: int = 80_000_000
    max_bytes: int = 100_000_000
    max_bundle_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} {value}: expected at least 1")


DEFAULT_LIMITS = Limits()


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows, their plugins imported: else it would import all it has."""
    Image.preinit()
    for plugin in _PLUGINS:
        with suppress(ImportError):
            import_module(f"PIL.{plugin}")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def source_name(source: object) -> str:
    """What errors call an image.

    >>> source_name("cat.jpg"), source_name(b"1234")
    ('cat.jpg', '<4 bytes>')
    """
    match source:
        case str() | Path():
            return str(source)
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
            return _image_from_array(source, name)
        case bytes():
            return _decode(source, name, limits, least_px)
        case str() | Path():
            return _decode(read_encoded(source, limits), name, limits, least_px)
    raise ImageError(f"expected a path, bytes, Pillow image or uint8 array, got {type(source).__name__}")


def _image_from_array(pixels: Pixels, name: str) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ImageError(
            f"{name}: expected uint8 of shape (H, W, 3) RGB or (H, W) grey, got {pixels.dtype} {pixels.shape}"
        )
    if not pixels.size:
        raise ImageError(f"{name}: holds no pixel: shape {pixels.shape}")
    return Image.fromarray(pixels)


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
        raise ImageError(f"{name!r}: cannot be read: {error}") from error


def holds_image(path: Path) -> bool:
    """Whether a regular file begins as an image that the client reads, whatever it is called.

    Nothing is decoded: a damaged image is one, too.
    """
    if not path.is_file():
        return False
    try:
        with Image.open(path, formats=_formats()):
            return True
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:  # Pillow's readers of headers raise anything for what is not theirs
        return False


def _require_bytes(length: int, name: str, limits: Limits) -> None:
    if length > limits.max_bytes:
        raise ImageError(f"{name}: {length} bytes, more than {limits.max_bytes}: refused (Limits.max_bytes)")


def _decode(encoded: bytes, name: str, limits: Limits, least_px: int | None) -> Image.Image:
    if not encoded:
        raise ImageError(f"{name}: is empty")
    _require_bytes(len(encoded), name, limits)
    try:
        image = Image.open(io.BytesIO(encoded), formats=_formats())
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not an image that the client reads: {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: too many pixels for PIL.Image.MAX_IMAGE_PIXELS: refused") from error
    except Exception as error:
        raise _damaged(name, error) from error
    return _loaded(image, name, limits, least_px)


def _loaded(image: Image.Image, name: str, limits: Limits, least_px: int | None = None) -> Image.Image:
    """The image with its pixels decoded; ImageError when it is too large or that cannot be done."""
    for what, (width, height) in (("", image.size), ("tiles of ", _tile_size(image))):
        if width * height > limits.max_pixels:
            raise ImageError(
                f"{name}: {what}{width} x {height}, more than {limits.max_pixels} pixels: refused "
                "(Limits.max_pixels)"
            )
    try:
        if least_px is not None:
            image.draft(None, (least_px, least_px))  # only JPEG heeds it
        image.load()
    except Exception as error:
        raise _damaged(name, error) from error
    return image


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Of a TIFF's tiles, each decoded whole, however small the image is; (0, 0) where there are none."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _damaged(name: str, error: Exception) -> ImageError:
    """Damaged bytes make Pillow's decoders raise anything: struct.error, IndexError, MemoryError, ..."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ImageError(f"{name}: is damaged or truncated: {reason}")
