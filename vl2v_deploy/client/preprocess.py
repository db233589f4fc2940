"""The one definition of preprocessing: any image -> uint8 (S, S, 3) RGB.

Training-time evaluation, calibration, parity, golden samples, benchmark and client all come through here.
Scaling and mean/std are inside the exported graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vl2v_deploy.client.images import (
    DEFAULT_LIMITS,
    ImageSource,
    Limits,
    Pixels,
    open_image,
    read_encoded,
    reason_of,
    source_name,
)
from vl2v_deploy.errors import ImageError

__all__ = [
    "DRAFT_MARGIN",
    "FULL_DECODING",
    "PREPROCESSING",
    "ImageSource",
    "Pixels",
    "open_image",
    "open_rgb",
    "pixels_from_source",
    "preprocess",
    "read_encoded",
    "to_rgb",
]

# A JPEG is decoded at 1/2, 1/4 or 1/8 while both sides stay at least so many times S.
DRAFT_MARGIN = 2
# Written to every bundle's manifest; a client that cannot do exactly this must refuse the bundle.
FULL_DECODING = "exif-transpose, alpha on white, RGB, squash to square bilinear antialias, uint8"
PREPROCESSING = f"jpeg dct-scaled to at least {DRAFT_MARGIN} S, {FULL_DECODING}"

# EXIF orientation -> what sets the image upright; 1 is upright, and so is whatever is not known
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def pixels_from_source(
    source: ImageSource, size_px: int, limits: Limits = DEFAULT_LIMITS, *, draft: bool = True
) -> Pixels:
    """Any image as the student sees it; uint8 (S, S, 3) RGB, which is `source` itself where it is that.

    A large JPEG is decoded at a fraction of its size, which takes a fraction of the time; the resize that
    follows gives the same pixels as from the whole image, to within a few grey levels.

    source:  a path, encoded bytes, a Pillow image, or uint8 pixels of shape (H, W, 3) or (H, W)
    size_px: S, the side of the square in pixels
    draft:   False decodes the whole of every JPEG, as bundles whose manifest says so want it

    Raises ImageError, naming the source, when it cannot be used.
    """
    if isinstance(source, np.ndarray) and source.shape == (size_px, size_px, 3) and source.dtype == np.uint8:
        return np.ascontiguousarray(source)
    least_px = DRAFT_MARGIN * size_px if draft else None
    if limits.decode_deadline_s is not None and isinstance(source, str | Path | bytes):
        return _decoded_in_time(source, limits, least_px, size_px)
    return _square(open_rgb(source, limits, least_px=least_px), size_px)


def open_rgb(
    source: ImageSource, limits: Limits = DEFAULT_LIMITS, *, least_px: int | None = None
) -> Image.Image:
    """The decoded image upright, opaque and RGB: what makes an image one that can be used.

    The arguments are those of `open_image`.

    Raises ImageError, naming the source, when it does not decode, or has no RGB.
    """
    if limits.decode_deadline_s is not None and isinstance(source, str | Path | bytes):
        return Image.fromarray(_decoded_in_time(source, limits, least_px, None))
    image = open_image(source, limits, least_px=least_px)
    try:
        return to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{source_name(source)}: {error}") from error


def _decoded_in_time(
    source: str | Path | bytes, limits: Limits, least_px: int | None, size_px: int | None
) -> Pixels:
    """The image as RGB, squashed to a square where `size_px` says so, by a process with a deadline."""
    from vl2v_deploy.client.decoding_processes import decode_in_time  # most applications never need it

    encoded = source if isinstance(source, bytes) else read_encoded(source, limits)
    try:
        return decode_in_time(encoded, limits, least_px=least_px, size_px=size_px)
    except ImageError as error:
        raise ImageError(f"{source_name(source)}: {error}") from error


def preprocess(image: Image.Image, size_px: int) -> Pixels:
    """A decoded image as the student sees it; uint8 (S, S, 3) RGB.

    The whole image is squashed to a square, without a crop (DomainBed's evaluation transform). From files
    and bytes use `pixels_from_source`, which decodes large JPEGs as the student was measured with.

    image:   any Pillow image; transparency is laid on white, EXIF orientation is applied
    size_px: S, the side of the square in pixels

    Raises ImageError for a colour mode that has no RGB.
    """
    return _square(to_rgb(image), size_px)


def _square(rgb: Image.Image, size_px: int) -> Pixels:
    return np.asarray(rgb.resize((size_px, size_px), Image.Resampling.BILINEAR))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright, opaque and RGB; same size up to a quarter turn.

    16-bit greys are scaled to 8 bit (Pillow's own conversion would clip them to white). Transparency is laid
    on white. CMYK is converted without a colour profile. 32-bit integers and floats have no agreed white:
    integers beyond 16 bit and all floats are refused.

    Raises ImageError for a colour mode that has no RGB.
    """
    if 0 in image.size:
        raise ImageError("holds no pixel")
    try:
        return _opaque_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # what an image's `info` holds makes Pillow raise anything
        raise ImageError(f"its colour mode {image.mode} cannot be made RGB: {reason_of(error)}") from error


def _opaque_rgb(image: Image.Image) -> Image.Image:
    if (turn := _UPRIGHT.get(_orientation(image))) is not None:  # the first of them is 0
        image = image.transpose(turn)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    elif image.mode == "F":
        raise ImageError("its pixels are floats, of which none is white: convert them to 8 or 16 bit")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it says nothing or is damaged, as browsers take it."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF makes Pillow raise anything; the picture is as good as ever
        return 1
    return found if isinstance(found, int) else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits a pixel, whatever its mode, as one of 8."""
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(
            f"its pixels are 32-bit integers from {grey.min()} to {grey.max()}, of which none is white: "
            "convert them to 8 or 16 bit"
        )
    return Image.fromarray((grey / np.float32(257.0)).round().astype(np.uint8))  # 65535 -> 255
