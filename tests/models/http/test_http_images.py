"""What is sent of an image: pixels as CLIP's preprocessing makes them, and nothing else of its file."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from vl2v_deploy.errors import ImageError
from vl2v_deploy.models.teacher.http.apis.wire import EncodedImage
from vl2v_deploy.models.teacher.http.images import encoded_image
from vl2v_deploy.recipe import SentImageRecipe


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def decoded(sent: EncodedImage) -> Image.Image:
    image = Image.open(io.BytesIO(sent.content))
    assert sent.mime == image.get_format_mimetype()
    return image


@pytest.mark.parametrize("image_format", ["png", "webp-lossless"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (97, 97), (1000, 33), (31, 64), (32, 40), (3, 200)])
def test_http_image_is_scaled_as_clip_does_and_never_up(image_format: str, size: tuple[int, int]) -> None:
    image = noise(*size)
    found = decoded(encoded_image(image, SentImageRecipe(size_px=32, format=image_format)))  # type: ignore[arg-type]
    clip = Resize(32, InterpolationMode.BICUBIC)(image) if min(size) > 32 else image
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(clip))


def test_http_image_as_jpeg_has_the_quality_that_is_asked_for() -> None:
    image = noise(64, 64).resize((640, 640))
    sent = {
        quality: encoded_image(image, SentImageRecipe(size_px=224, format="jpeg", quality=quality))
        for quality in (30, 90, None)
    }
    assert sent[None].content == sent[90].content and len(sent[30].content) < len(sent[90].content)
    exact = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    far = np.abs(np.asarray(decoded(sent[90]), np.float32) - exact).mean()
    assert 0 < far < 4


@pytest.mark.parametrize("size", [(300, 200), (201, 300), (32, 32), (20, 64), (10, 10), (335, 32)])
def test_http_image_as_pixels_is_clips_square(size: tuple[int, int]) -> None:
    image = noise(*size)
    sent = encoded_image(image, SentImageRecipe(size_px=32, format="pixels"))
    clip = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])(image)
    assert sent.mime == "" and np.array_equal(
        np.frombuffer(sent.content, np.uint8).reshape(32, 32, 3), np.asarray(clip)
    )


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp-lossless"])
def test_http_image_carries_no_metadata(image_format: str) -> None:
    """Where and by whom a picture was taken stays here; that it was taken lying is applied."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "SECRET CAMERA", 6
    file = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "SECRET NOTE")
    noise(40, 20).save(file, "PNG", exif=exif, pnginfo=text, icc_profile=b"SECRET PROFILE")
    image = Image.open(file)
    image.info["comment"] = b"SECRET COMMENT"
    sent = encoded_image(image, SentImageRecipe(size_px=20, format=image_format))  # type: ignore[arg-type]
    found = decoded(sent)
    assert found.size == (20, 40)  # upright, and small enough to be sent as it is
    assert b"SECRET" not in sent.content
    assert {"exif", "icc_profile", "comment", "Comment", "xmp"}.isdisjoint(found.info)
    assert image.info["comment"]  # the caller's own image is as it was


def test_http_image_too_small_for_the_api() -> None:
    recipe = SentImageRecipe(size_px=32)
    assert encoded_image(noise(3, 9), recipe, least_px=3)
    with pytest.raises(ImageError, match="2 x 9 pixels; the API takes at least 3"):
        encoded_image(noise(2, 9), recipe, least_px=3)
