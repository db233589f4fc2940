"""The one definition of preprocessing: any image -> uint8 (S, S, 3) RGB.

Training-time evaluation, calibration, parity, golden samples, benchmark and client all come through here.
Scaling and mean/std are inside the exported graph.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from vl2v_deploy.errors import ImageError

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = str | Path | bytes | Image.Image | Pixels

# Written to every bundle's manifest; a client that cannot do exactly this must refuse the bundle.
PREPROCESSING = "exif-transpose, alpha on white, RGB, squash to square bilinear antialias, uint8"


def preprocess(image: Image.Image, size_px: int) -> Pixels:
    """The image as the student sees it; uint8 (S, S, 3) RGB.

    The whole image is squashed to a square, without a crop (DomainBed's evaluation transform).

    image:   any Pillow image; transparency is laid on white, EXIF orientation is applied
    size_px: S, the side of the square in pixels
    """
    square = to_rgb(image).resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(square)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, opaque and RGB; same size up to a quarter turn.

    16-bit greys are scaled to 8 bit (Pillow's own conversion would clip them to white).
    """
    # Pillow copies the pixels even where there is nothing to turn, so look before calling it.
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float64) / 257.0  # 65535 -> 255
        image = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(source: ImageSource) -> Image.Image:
    """The decoded image, first frame; a Pillow image whose pixels are loaded.

    source: a path, encoded bytes, a Pillow image, or uint8 pixels of shape (H, W, 3)

    Raises ImageError, naming the source, when it is missing, truncated, not an image, or of another shape.
    """
    if isinstance(source, Image.Image):
        return _loaded(source, "image")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ImageError(
                f"image array: expected uint8 of shape (H, W, 3), got {source.dtype} {source.shape}"
            )
        if not source.size:
            raise ImageError(f"image array: holds no pixel: shape {source.shape}")
        return Image.fromarray(source)
    if isinstance(source, bytes):
        return _decode(source, f"<{len(source)} bytes>")
    if isinstance(source, str | Path):
        try:
            encoded = Path(source).read_bytes()
        except OSError as error:
            raise ImageError(f"{source}: cannot be read: {error.strerror or error}") from error
        return _decode(encoded, str(source))
    raise ImageError(
        f"expected a path, bytes, Pillow image or uint8 (H, W, 3) array, got {type(source).__name__}"
    )


def _decode(encoded: bytes, name: str) -> Image.Image:
    if not encoded:
        raise ImageError(f"{name}: is empty")
    try:
        image = Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not an image that Pillow can read") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels: refused") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name}: is damaged or truncated: {error}") from error
    return _loaded(image, name)


def _loaded(image: Image.Image, name: str) -> Image.Image:
    """The image with its pixels decoded; ImageError when that cannot be done."""
    # Pillow only warns between one and two times its limit; a server must refuse before decoding.
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"{name}: more than {Image.MAX_IMAGE_PIXELS} pixels: refused")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name}: is damaged or truncated: {error}") from error
    return image
