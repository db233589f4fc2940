"""Every colour mode, the JPEGs that are decoded at a fraction, and what must never be decoded at all."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from vl2v_deploy.client import Limits, pixels_from_source
from vl2v_deploy.client.images import FORMATS, TRUSTED, open_image
from vl2v_deploy.client.preprocess import preprocess, to_rgb
from vl2v_deploy.errors import ImageError

SIDE = 16


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth in both directions, each corner in its own colour."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8)).convert(mode)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def transparent_palette() -> Image.Image:
    image = Image.new("PA", (8, 8))
    image.putalpha(0)  # `convert` to PA from RGBA would lose the alpha in older versions of Pillow
    return image


def tiff_of(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels), "TIFF")


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("L", (8, 8), 128), 128, id="grey"),
        pytest.param(Image.new("1", (8, 8), 1), 255, id="1-bit"),
        pytest.param(Image.new("LA", (8, 8), (128, 255)), 128, id="grey, opaque"),
        pytest.param(Image.new("LA", (8, 8), (0, 0)), 255, id="grey, transparent"),
        pytest.param(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), 127, id="half transparent"),
        pytest.param(transparent_palette(), 255, id="palette and alpha"),
        pytest.param(Image.new("RGB", (8, 8), (128,) * 3).convert("P"), 128, id="palette"),
        pytest.param(Image.new("CMYK", (8, 8), (0, 0, 0, 127)), 128, id="CMYK"),
        pytest.param(Image.new("I", (8, 8), 32896), 128, id="16 bit in 32"),
        pytest.param(Image.fromarray(np.full((8, 8), 32896, np.uint16)), 128, id="16 bit"),
        pytest.param(Image.fromarray(np.full((8, 8), 32896, ">u2")), 128, id="16 bit, big-endian"),
    ],
)
def test_colour_modes_become_rgb(image: Image.Image, expected: int) -> None:
    pixels = pixels_from_source(image, 4)
    assert pixels.shape == (4, 4, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(tiff_of(np.full((8, 8), 0.5, np.float32)), "pixels are floats", id="float TIFF"),
        pytest.param(tiff_of(np.full((8, 8), 70000, np.int32)), "32-bit integers from 70000", id="wide grey"),
        pytest.param(tiff_of(np.full((8, 8), -1, np.int32)), "32-bit integers from -1", id="negative grey"),
        pytest.param(Image.new("La", (8, 8)), "mode La cannot be made RGB", id="premultiplied"),
    ],
)
def test_colour_modes_without_a_white_are_refused_by_name(source: bytes | Image.Image, reason: str) -> None:
    name = f"<{len(source)} bytes>: " if isinstance(source, bytes) else "image: "
    with pytest.raises(ImageError, match=f"^{name}its .*{reason.split('its ')[-1]}"):
        pixels_from_source(source, 4, TRUSTED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright(orientation: int) -> None:
    """Against Pillow's own transposition, which also writes the EXIF anew."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    for least_px in (None, 32):
        turned = open_image(encoded(photograph(400, 200), "JPEG", exif=exif.tobytes()), least_px=least_px)
        assert turned.size == ((400, 200) if least_px is None else (100, 50))
        assert np.array_equal(np.asarray(to_rgb(turned)), np.asarray(ImageOps.exif_transpose(turned)))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense"])
def test_damaged_exif_is_taken_as_none(exif: bytes) -> None:
    assert pixels_from_source(encoded(photograph(64, 64), "PNG", exif=exif), 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (2 * SIDE - 1, 400, 1),  # one side is short already
        (4 * SIDE - 1, 400, 1),  # half of it would be one too few
        (4 * SIDE, 400, 2),
        (8 * SIDE - 1, 8 * SIDE, 2),
        (8 * SIDE, 8 * SIDE, 4),
        (16 * SIDE, 16 * SIDE + 7, 8),
        (99 * SIDE, 99 * SIDE, 8),  # there is no smaller
    ],
)
def test_a_jpeg_is_decoded_as_small_as_twice_the_input(
    width: int, height: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def resize(image: Image.Image, *arguments: object) -> Image.Image:
        sizes.append(image.size)
        return kept(image, *arguments)  # type: ignore[arg-type]

    kept = Image.Image.resize
    jpeg = encoded(photograph(width, height), "JPEG", quality=95)
    monkeypatch.setattr(Image.Image, "resize", resize)
    pixels = pixels_from_source(jpeg, SIDE)
    whole = pixels_from_source(jpeg, SIDE, draft=False)
    assert sizes == [(-(-width // scale), -(-height // scale)), (width, height)]
    assert np.abs(pixels.astype(int) - whole).max() <= 4
    assert np.array_equal(whole, preprocess(open_image(jpeg), SIDE))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_other_jpegs_are_decoded_at_a_fraction_too(mode: str, progressive: bool) -> None:
    jpeg = encoded(photograph(256, 320, mode), "JPEG", quality=95, progressive=progressive)
    assert open_image(jpeg, least_px=2 * SIDE).size == (32, 40)
    whole = pixels_from_source(jpeg, SIDE, draft=False)
    assert np.abs(pixels_from_source(jpeg, SIDE).astype(int) - whole).max() <= 4


def test_a_camera_s_second_picture_is_left_alone() -> None:
    first, second = photograph(256, 256), Image.new("RGB", (64, 64), "black")
    both = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(both)).format == "MPO"
    assert open_image(both, least_px=2 * SIDE).size == (32, 32)
    alone = pixels_from_source(encoded(first, "JPEG"), SIDE)
    assert np.array_equal(pixels_from_source(both, SIDE), alone)


def test_other_formats_are_decoded_whole() -> None:
    for format in ("PNG", "WEBP", "BMP", "TIFF"):
        assert open_image(encoded(photograph(256, 256), format), TRUSTED, least_px=SIDE).size == (256, 256)


def test_pixels_of_the_right_size_are_not_copied() -> None:
    pixels = np.asarray(photograph(SIDE, SIDE)).copy()
    assert pixels_from_source(pixels, SIDE) is pixels
    assert np.array_equal(pixels, preprocess(Image.fromarray(pixels), SIDE))
    turned = pixels[::-1]  # not contiguous: the session wants it so
    made = pixels_from_source(turned, SIDE)
    assert made.flags.c_contiguous and np.array_equal(made, turned)


def test_grey_arrays_are_images_too() -> None:
    assert (pixels_from_source(np.full((9, 7), 200, np.uint8), 4) == 200).all()


def tiled_tiff(side_px: int, tile_px: int) -> bytes:
    """A grey TIFF of one deflated tile, which is not as long as its header says."""
    data = zlib.compress(bytes(1000))
    entries = {256: side_px, 257: side_px, 258: 8, 259: 8, 262: 1, 277: 1}
    entries |= {322: tile_px, 323: tile_px, 324: 8, 325: len(data)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return header + struct.pack("<H", len(entries)) + table + bytes(4)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "pixel bomb": (lambda: png_of(60_000, 60_000), "60000 x 60000|MAX_IMAGE_PIXELS"),
    "just over the limit": (lambda: png_of(8001, 10_000), "8001 x 10000, more than 80000000 pixels: refused"),
    "tile bomb": (
        lambda: tiled_tiff(16, 40_000),
        "tiles of 40000 x 40000, more than 80000000 pixels: refused",
    ),
    "no pixels": (lambda: png_of(0, 10), "holds no pixel|damaged"),
    "negative size": (lambda: png_of(2**32 - 1, 1), "holds no pixel|damaged|too many pixels"),
    "header only": (lambda: png_of(10, 10), "damaged or truncated"),
    "EPS": (lambda: encoded(photograph(9, 9), "EPS"), "is not an image that the client reads: JPEG, PNG"),
    "PDF": (lambda: encoded(photograph(9, 9), "PDF"), "is not an image that the client reads"),
    "ICO": (lambda: encoded(photograph(32, 32), "ICO"), "is not an image that the client reads"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "HTML": (lambda: b"<html>no</html>", "is not an image"),
    "empty": (lambda: b"", "is empty"),
    "JPEG's first bytes": (lambda: b"\xff\xd8\xff", "is not an image|damaged"),
    "cut JPEG": (lambda: encoded(photograph(900, 900), "JPEG")[:-2000], "damaged or truncated"),
    "cut WebP": (lambda: encoded(photograph(900, 900), "WEBP")[:-200], "is not an image|damaged"),
    "cut TIFF": (lambda: encoded(photograph(90, 90), "TIFF")[:-200], "is not an image|damaged"),
    "cut PNG": (lambda: encoded(photograph(90, 90), "PNG")[:-200], "damaged or truncated"),
    "cut GIF": (lambda: encoded(photograph(90, 90), "GIF")[:-200], "damaged or truncated"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    hostile = make()
    with pytest.raises(ImageError, match=f"(?s)^<{len(hostile)} bytes>: .*({reason})"):
        pixels_from_source(hostile, SIDE, TRUSTED)
    (tmp_path / "hostile.jpg").write_bytes(hostile)
    for limits in (TRUSTED, Limits()):
        with pytest.raises(ImageError, match=r"hostile\.jpg: "):
            pixels_from_source(tmp_path / "hostile.jpg", SIDE, limits)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "AVIF"])
def test_damaged_images_are_pixels_or_an_image_error(format: str) -> None:
    """Whatever bytes are changed, and whatever Pillow's decoders then raise or warn of."""
    rng = np.random.default_rng(0)
    good = np.frombuffer(encoded(photograph(40, 40), format), np.uint8)
    refused = 0
    for _ in range(150):
        bad = good.copy()
        bad[rng.integers(0, len(bad), 8)] = rng.integers(0, 256, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert pixels_from_source(bad.tobytes(), SIDE, TRUSTED).shape == (SIDE, SIDE, 3)
            except ImageError:
                refused += 1
    assert refused > 0


def test_limits_are_the_client_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png, before = encoded(photograph(40, 50), "PNG"), Image.MAX_IMAGE_PIXELS
    path = tmp_path / "x.png"
    path.write_bytes(png)
    for source in (png, path):
        assert pixels_from_source(source, SIDE, Limits(max_pixels=2000, max_bytes=len(png))).any()
        with pytest.raises(ImageError, match=rf"{len(png)} bytes, more than {len(png) - 1}: refused"):
            pixels_from_source(source, SIDE, Limits(max_bytes=len(png) - 1))
    no_decoding(monkeypatch)
    for image in (png, Image.open(io.BytesIO(png))):
        with pytest.raises(ImageError, match="40 x 50, more than 1999 pixels: refused"):
            pixels_from_source(image, SIDE, Limits(max_pixels=1999))
    assert before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match="max_pixels 0: expected at least 1"):
        Limits(max_pixels=0)


def test_a_file_that_is_too_long_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "long.jpg"
    path.touch()
    os.truncate(path, 2**42)  # takes no room on the disk, but there is no memory to read it
    with pytest.raises(ImageError, match=r"long\.jpg: 4398046511104 bytes, more than 100000000: refused"):
        pixels_from_source(path, SIDE)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    cases: list[tuple[str | Path, str]] = [
        ("/dev/zero", "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "a directory"),
        ("a\0b", "cannot be read"),
    ]
    for path, reason in cases:
        with pytest.raises(ImageError, match=f"cannot be read.*{reason}|{reason}"):
            pixels_from_source(path, SIDE)
