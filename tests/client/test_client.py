"""What the client does with whatever it is handed."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vl2v_deploy.client.preprocess import open_image, preprocess
from vl2v_deploy.client.student import open_session, softmax
from vl2v_deploy.errors import ImageError, ProviderError


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def colours() -> Image.Image:
    """Left half red, right half blue, a little taller than wide."""
    pixels = np.zeros((48, 40, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:, 2] = 255
    return Image.fromarray(pixels)


def test_every_source_gives_the_same_pixels(colours: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    colours.save(path)
    expected = preprocess(colours, 16)
    assert expected.shape == (16, 16, 3) and expected.dtype == np.uint8
    for source in (path, str(path), path.read_bytes(), colours, np.asarray(colours)):
        assert np.array_equal(preprocess(open_image(source), 16), expected)


def test_the_whole_image_is_squashed(colours: Image.Image) -> None:
    pixels = preprocess(colours, 16)
    assert (pixels[:, :7] == (255, 0, 0)).all()
    assert (pixels[:, 9:] == (0, 0, 255)).all()


def test_orientation_is_applied(colours: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 270 degrees
    turned = open_image(encoded(colours, "JPEG", exif=exif.tobytes(), quality=95))
    pixels = preprocess(turned, 16).astype(int)
    assert pixels[2, 8, 0] > 200 and pixels[13, 8, 2] > 200  # red above blue


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    if mode == "P":
        image = image.convert("P")
        image.info["transparency"] = image.getpixel((0, 0))
    else:
        image = image.convert(mode)
    assert (preprocess(image, 4) == 255).all()


@pytest.mark.parametrize(
    ("mode", "value"), [("L", 128), ("1", 1), ("CMYK", (0, 0, 0, 127)), ("YCbCr", (128,) * 3)]
)
def test_other_colour_modes_become_rgb(mode: str, value: object) -> None:
    pixels = preprocess(Image.new(mode, (8, 8), value), 4)  # type: ignore[arg-type]
    expected = 255 if mode == "1" else 128
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert (preprocess(open_image(encoded(grey, "PNG")), 4) == 128).all()


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (preprocess(open_image(animated), 4)[..., 0] > 250).all()


def test_what_is_refused_names_its_source(tmp_path: Path, colours: Image.Image) -> None:
    jpeg = encoded(colours, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    for name, reason in [
        ("cut.jpg", "damaged or truncated"),
        ("text.jpg", "not an image"),
        ("empty.jpg", "is empty"),
        ("none.jpg", "No such file"),
        ("", "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(
        ImageError, match=r"uint8 of shape \(H, W, 3\) RGB or \(H, W\) grey, got float64 \(4, 4, 3\)"
    ):
        open_image(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="got int"):
        open_image(3)  # type: ignore[arg-type]


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 80):  # Pillow itself warns at the first and refuses the second
        with pytest.raises(ImageError, match=r"too many pixels for PIL\.Image\.MAX_IMAGE_PIXELS"):
            open_image(encoded(Image.new("RGB", (side, side)), "PNG"))


def test_a_provider_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"CUDAExecutionProvider.*available: .*CPUExecutionProvider"):
        open_session(tmp_path / "unused.onnx", ["CUDAExecutionProvider"])


def test_softmax_does_not_overflow() -> None:
    probabilities = softmax(np.array([[1000.0, 0.0, -1000.0]], dtype=np.float32))
    assert probabilities.tolist() == [[1.0, 0.0, 0.0]]


def test_importing_the_client_brings_nothing_heavy() -> None:
    code = (
        "import sys, vl2v_deploy.client\n"
        "heavy = {'torch', 'onnx', 'click', 'pydantic', 'yaml', 'rich'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
