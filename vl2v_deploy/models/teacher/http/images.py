"""What is sent of an image: its pixels, scaled down and encoded; nothing else that its file holds."""

from __future__ import annotations

import io
from typing import assert_never

from PIL import Image

from vl2v_deploy.client.preprocess import to_rgb
from vl2v_deploy.errors import ImageError
from vl2v_deploy.models.teacher.http.apis.wire import EncodedImage, SentImage

# Part of the teacher's identity, with the recipe's section: raise it when other pixels are sent.
VERSION = 1
DEFAULT_QUALITY = 90


def encoded_image(image: Image.Image, recipe: SentImage, least_px: int = 1) -> EncodedImage:
    """The image as it is sent: upright, opaque, RGB, without metadata.

    The shorter side is scaled down to the recipe's size by Pillow's bicubic, as CLIP's preprocessing does;
    a smaller image stays as it is. As bare pixels every image becomes the central square of that size.

    least_px: smallest side that the API takes

    Raises ImageError for an image that is smaller or has no RGB.
    """
    rgb = to_rgb(image)
    if recipe.format == "pixels":
        return EncodedImage(_square(rgb, recipe.size_px).tobytes(), "")
    if min(rgb.size) < least_px:
        raise ImageError(f"is {rgb.width} x {rgb.height} pixels; the API takes at least {least_px} a side")
    if min(rgb.size) > recipe.size_px:
        rgb = rgb.resize(_scaled(rgb.size, recipe.size_px), Image.Resampling.BICUBIC)
    plain = Image.new("RGB", rgb.size)  # Pillow's encoders write what an image's `info` holds
    plain.paste(rgb)
    file = io.BytesIO()
    match recipe.format:
        case "png":
            plain.save(file, "PNG", compress_level=1, compress_type=3)  # run lengths: fast, and small
        case "jpeg":
            plain.save(file, "JPEG", quality=sent_quality(recipe), subsampling="4:4:4")
        case "webp-lossless":
            plain.save(file, "WEBP", lossless=True, method=0, quality=0)
        case other:
            assert_never(other)
    return EncodedImage(file.getvalue(), f"image/{recipe.format.removesuffix('-lossless')}")


def sent_quality(recipe: SentImage) -> int | None:
    """Of the encoded image; None where the format loses nothing."""
    return recipe.quality or DEFAULT_QUALITY if recipe.format == "jpeg" else None


def _scaled(size: tuple[int, int], shorter_px: int) -> tuple[int, int]:
    """Width and height with the shorter one of `shorter_px`; the other rounded down, as torchvision does."""
    width, height = size
    if width <= height:
        return shorter_px, int(shorter_px * height / width)
    return int(shorter_px * width / height), shorter_px


def _square(rgb: Image.Image, size_px: int) -> Image.Image:
    """The central square of the image with its shorter side scaled to `size_px`, up too."""
    if min(rgb.size) != size_px:
        rgb = rgb.resize(_scaled(rgb.size, size_px), Image.Resampling.BICUBIC)
    left, top = round((rgb.width - size_px) / 2), round((rgb.height - size_px) / 2)
    return rgb.crop((left, top, left + size_px, top + size_px))
