"""Files that keep a decoder busy, formats that nobody named, odd images of the application's."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.hostile_files import (
    bmp_of_run_lengths,
    encoded,
    gif_with,
    jpeg_of_scans,
    jpeg_with,
    png_chunk,
    png_with,
    segment,
    webp_of_frames,
)
from vl2v_deploy.client import Limits, pixels_from_source
from vl2v_deploy.client.decoding_work import MOST_READS, MOST_SCANS, MOST_SEGMENTS
from vl2v_deploy.client.images import FORMATS, TRUSTED, WEB_FORMATS, open_image
from vl2v_deploy.client.preprocess import open_rgb, to_rgb
from vl2v_deploy.errors import ImageError

SIDE = 16
HANG_S = 60.0  # what takes so long hangs
PHOTO = Image.linear_gradient("L").convert("RGB")


def profile(megabytes: int) -> bytes:
    return png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(megabytes * 1_000_000)))


COSTLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans": (lambda: jpeg_of_scans(64, 64, 3000), f"more than {MOST_SCANS} scans"),
    "scans of many pixels": (
        lambda: jpeg_of_scans(8900, 8900, 30),
        "at least 26 scans of 79210000 pixels",
    ),
    "JPEG segments": (lambda: jpeg_with(segment(0xE5) * 5_000_000), f"more than {MOST_SEGMENTS} segments"),
    "ends of image": (lambda: jpeg_with(b"\xff\xd9" * 100_000), f"more than {MOST_SEGMENTS} segments"),
    "EXIF segments": (lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(9)) * 17), "segments of EXIF"),
    "stray bytes": (lambda: jpeg_with(segment(0xE5) + bytes(MOST_READS)), "parts"),
    "fill bytes": (lambda: jpeg_with(b"\xff" * MOST_READS), "parts"),
    "PNG chunks": (lambda: png_with(png_chunk(b"abCd") * (MOST_READS // 2)), "parts"),
    "PNG profiles": (lambda: png_with(profile(1) * 100), "more than 64 colour profiles"),
    "GIF comments": (lambda: gif_with(b"!\xfe" + b"\1a" * MOST_READS + b"\0"), "parts"),
    "GIF extensions": (lambda: gif_with(b"!\xf9\0\0" * MOST_READS), "parts"),
    "WebP frames": (lambda: webp_of_frames(20_000), "more than 16384 frames"),
    "BMP runs": (lambda: bmp_of_run_lengths(1, 80_000_000, bytes(2)), "slow to decode"),
    "wide BMP runs": (lambda: bmp_of_run_lengths(9000, 8800, b"\1\0\0\0" * 100), "slow to decode"),
    "PBM comments": (lambda: b"P1 99 99\n" + b"#\n" * 500_000, "more than 1000 comments"),
    "PPM header": (lambda: b"P6 #" + b"x" * 1_100_000 + b"\n1 1 255\nabc", "parts"),
    "plain PPM": (lambda: b"P3 9000 8800 255\n" + b"1 " * 100, "slow to decode"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_hostile_work_is_refused_before_it_is_done(name: str) -> None:
    make, reason = COSTLY[name]
    hostile = make()
    with pytest.raises(ImageError, match=f"^<{len(hostile)} bytes>: takes too long .*{reason}"):
        pixels_from_source(hostile, SIDE, Limits(formats=FORMATS))


def test_hostile_scans_are_bounded_by_the_pixels_that_are_allowed() -> None:
    file = jpeg_of_scans(640, 640, 30)
    pixels = 640 * 640
    with pytest.raises(ImageError, match=f"at least 26 scans of {pixels} pixels"):
        pixels_from_source(file, SIDE, Limits(max_pixels=pixels))
    for limits in (
        Limits(max_pixels=2 * pixels),
        Limits(max_pixels=pixels, trusted=True),
        Limits(max_pixels=pixels, trusted=True, decode_deadline_s=HANG_S),
    ):
        assert pixels_from_source(file, SIDE, limits).shape == (SIDE, SIDE, 3)
    with pytest.raises(ImageError, match=f"more than {MOST_SCANS} scans"):  # of one's own files, too
        pixels_from_source(jpeg_of_scans(640, 640, MOST_SCANS + 1), SIDE, TRUSTED)


@pytest.mark.parametrize(
    "honest",
    [
        pytest.param(lambda: encoded(PHOTO, "JPEG", progressive=True), id="progressive"),
        pytest.param(lambda: jpeg_of_scans(64, 64, MOST_SCANS), id="as many scans as allowed"),
        pytest.param(lambda: jpeg_with(segment(0xE1, bytes(65_000)) * 300), id="20 MB of XMP"),
        pytest.param(lambda: encoded(PHOTO, "JPEG") + b"\xff\xda\0\0" * 1000, id="data behind the picture"),
        pytest.param(lambda: jpeg_with(segment(0xE5, b"\xff\xda" * 9000)), id="marks inside a segment"),
        pytest.param(lambda: png_with(profile(1)), id="colour profile"),
        pytest.param(lambda: gif_with(b"!\xfe" + b"\1a" * 1000 + b"\0"), id="long comment"),
        pytest.param(lambda: webp_of_frames(50), id="animation"),
    ],
)
def test_hostile_looking_honest_images_are_read(honest: Callable[[], bytes]) -> None:
    assert pixels_from_source(honest(), SIDE).shape == (SIDE, SIDE, 3)


def test_hostile_scans_are_counted_in_one_pass() -> None:
    """Runs of fill bytes and stuffed zeros must not be searched again from each of them."""
    data = b"\xff\xd8\xff\xda\0\2" + b"\xff" * 20_000_000 + b"\0" + b"\xff\0" * 10_000_000
    program = (
        "import sys; from vl2v_deploy.client.decoding_work import require_bounded_work; "
        "require_bounded_work(sys.stdin.buffer.read(), 'JPEG', 80_000_000)"
    )
    subprocess.run([sys.executable, "-c", program], input=data, check=True, timeout=HANG_S)


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in WEB_FORMATS])
def test_hostile_formats_are_read_only_when_named(format: str) -> None:
    file = encoded(PHOTO, format)
    with pytest.raises(ImageError, match=rf"its format is {format}, .*--allow-format {format}$"):
        pixels_from_source(file, SIDE)
    assert pixels_from_source(file, SIDE, Limits(formats=(*WEB_FORMATS, format))).any()
    with pytest.raises(ImageError, match="its format is PNG, read are"):
        pixels_from_source(encoded(PHOTO, "PNG"), SIDE, Limits(formats=(format,)))


def test_hostile_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"formats 'TIF': .*did you mean 'TIFF'"):
        Limits(formats=("JPEG", "TIF"))
    for deadline_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="decode_deadline_s"):
            Limits(decode_deadline_s=deadline_s)


# --- a deadline ---


def slow_file() -> bytes:
    """Within every bound, and seconds of work for a decoder that is written in Python."""
    return b"P3 1800 1800 254\n" + b"1 " * (1800 * 1800 * 3)


def test_hostile_image_is_given_up_at_its_deadline_and_others_are_not() -> None:
    slow, good = slow_file(), encoded(PHOTO, "PNG")
    tried = [(slow, 0.2), (good, HANG_S)] * 2
    with ThreadPoolExecutor(4) as pool:
        answers = [
            pool.submit(pixels_from_source, file, SIDE, Limits(formats=FORMATS, decode_deadline_s=deadline_s))
            for file, deadline_s in tried
        ]
        for answer in answers[::2]:
            with pytest.raises(ImageError, match=rf"^<{len(slow)} bytes>: took longer than 0\.2 s to decode"):
                answer.result(HANG_S)
        expected = pixels_from_source(good, SIDE)
        for answer in answers[1::2]:
            assert np.array_equal(answer.result(HANG_S), expected)


def test_hostile_deadline_changes_no_pixel_and_no_message(tmp_path: Path) -> None:
    limits = Limits(max_pixels=100_000, decode_deadline_s=HANG_S)
    (tmp_path / "x.jpg").write_bytes(encoded(PHOTO, "JPEG"))
    rgba = PHOTO.convert("RGBA")
    rgba.putalpha(77)
    for source in (tmp_path / "x.jpg", encoded(rgba, "PNG"), np.asarray(PHOTO), PHOTO):
        here = Limits(max_pixels=100_000)
        assert np.array_equal(
            pixels_from_source(source, SIDE, limits), pixels_from_source(source, SIDE, here)
        )
        for least_px in (None, 2 * SIDE):
            ours, theirs = (open_rgb(source, each, least_px=least_px) for each in (limits, here))
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    bad = (
        b"",
        b"no image",
        encoded(PHOTO, "TIFF"),
        encoded(PHOTO.resize((400, 400)), "PNG"),
        tmp_path / "no",
    )
    for hostile in bad:
        messages = []
        for each in (limits, here):
            with pytest.raises(ImageError) as error:
                pixels_from_source(hostile, SIDE, each)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_hostile_image_that_kills_its_decoder_is_refused(tmp_path: Path) -> None:
    """A decoder that crashes, here by a signal, ends its process and not the application."""
    from vl2v_deploy.client import decoding_processes

    limits, slow = Limits(formats=FORMATS, decode_deadline_s=HANG_S), slow_file()
    good = encoded(PHOTO, "PNG")
    pixels_from_source(good, SIDE, limits)
    [*_, process] = decoding_processes._POOL.idle
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(pixels_from_source, slow, SIDE, limits)
        while process in decoding_processes._POOL.idle:
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(process._process.pid, signal.SIGSEGV)
        with pytest.raises(ImageError, match=r"its decoder crashed \(SIGSEGV\): refused"):
            answer.result(HANG_S)
    assert pixels_from_source(good, SIDE, limits).any()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux")
def test_hostile_image_does_not_outlive_a_killed_application(tmp_path: Path) -> None:
    (tmp_path / "slow").write_bytes(slow_file())
    program = """
import os, sys
from vl2v_deploy.client import Limits, pixels_from_source, decoding_processes
from vl2v_deploy.client.images import FORMATS
limits = Limits(formats=FORMATS, decode_deadline_s=60)
pixels_from_source(sys.argv[2], 16, limits)
print(decoding_processes._POOL.idle[0]._process.pid, flush=True)
pixels_from_source(sys.argv[1], 16, limits)
"""
    encoded_path = tmp_path / "good.png"
    encoded_path.write_bytes(encoded(PHOTO, "PNG"))
    command = [sys.executable, "-c", program, str(tmp_path / "slow"), str(encoded_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        decoder = Path("/proc", process.stdout.readline().decode().strip())
        process.kill()
    for _ in range(int(HANG_S / 0.05)):
        if not decoder.exists():
            return
        time.sleep(0.05)
    raise AssertionError("the decoder still runs")


def test_hostile_fork_makes_its_own_decoders() -> None:
    program = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from vl2v_deploy.client import Limits, pixels_from_source
limits = Limits(decode_deadline_s=60)
expected = pixels_from_source(sys.argv[1], 16, limits)
child = os.fork()
assert np.array_equal(pixels_from_source(sys.argv[1], 16, limits), expected)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    path = Path(__file__).parents[2] / "benchmarks/results/web_page.webp"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=HANG_S)


# --- images of the application's own ---


@pytest.mark.parametrize(
    "info",
    [
        {"exif": "no bytes"},
        {"exif": 7},
        {"exif": b"Exif\0\0" + b"\xff" * 99},
        {"transparency": "red"},
        {"transparency": b""},
        {"transparency": (1, 2, 3, 4)},
        {"transparency": 1e300},
        {"transparency": -7},
        {"transparency": Path},
        {"xmp": Path},
        {"Raw profile type exif": "\n\n\nzz"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK", "F", "I"])
def test_hostile_info_of_an_image_is_pixels_or_an_image_error(mode: str, info: dict[str, Any]) -> None:
    image = Image.new("I;16", (9, 9)) if mode == "I;16" else PHOTO.resize((9, 9)).convert(mode)
    image.info |= info
    try:
        assert pixels_from_source(image, SIDE).shape == (SIDE, SIDE, 3)
    except ImageError as error:
        assert str(error).startswith("image: ") and str(error).isprintable()


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGB", "P", "RGBA", "1"])
def test_hostile_images_without_a_pixel_are_refused(mode: str) -> None:
    for size in ((0, 0), (0, 9), (9, 0)):
        for source in (Image.new(mode, size), np.empty((*size[::-1], 3), np.uint8)):
            with pytest.raises(ImageError, match=r"^image.*: holds no pixel: \d+ x \d+$"):
                pixels_from_source(source, SIDE)
        with pytest.raises(ImageError, match="holds no pixel"):
            to_rgb(Image.new(mode, size))


def test_hostile_arrays_are_refused_by_their_shape_or_read() -> None:
    pixels = np.asarray(PHOTO.resize((40, 30)))
    for odd in (
        pixels.astype(float),
        pixels.astype(object),
        pixels.view("i1"),
        pixels[..., :2],
        pixels[None],
    ):
        with pytest.raises(ImageError, match=r"^image array: expected uint8 of shape"):
            pixels_from_source(odd, SIDE)
    padded = np.zeros((30, 80, 3), np.uint8)
    padded[:, ::2] = pixels
    for same in (np.asfortranarray(pixels), padded[:, ::2], np.ma.masked_array(pixels, False)):
        assert np.array_equal(pixels_from_source(same, SIDE), pixels_from_source(pixels, SIDE))
    endless = np.broadcast_to(np.uint8(7), (100_000, 100_000, 3))  # 30 GB, were it copied
    with pytest.raises(ImageError, match="image array: 100000 x 100000, more than 80000000 pixels: refused"):
        pixels_from_source(endless, SIDE)
    for source in (pixels, Image.fromarray(pixels)):
        with pytest.raises(ImageError, match=r"^image.*: 40 x 30, more than 1199 pixels: refused"):
            open_image(source, Limits(max_pixels=1199))


def test_hostile_names_make_one_printable_line(tmp_path: Path) -> None:
    for name in ("a\nb\x1b[31m.jpg", "caf\udce9.jpg", "a\0b", "x" * 300):
        for source in (str(tmp_path / name), tmp_path / name):
            with pytest.raises(ImageError) as error:
                pixels_from_source(source, SIDE)
            assert str(error.value).isprintable()
            str(error.value).encode()


def test_hostile_reasons_of_decoders_are_cut_to_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Image.Image):
        def load(self) -> None:  # type: ignore[override]
            raise ValueError("bad \udcff\x07 " + "x" * 10_000 + "\nmore")

    broken = Broken()
    broken._size = (4, 4)
    with pytest.raises(ImageError) as error:
        open_image(broken)
    said = str(error.value)
    assert said.startswith(r"image: is damaged or truncated: bad \xff\x07 x") and said.isprintable()
    assert len(said) < 300


def test_hostile_work_is_counted_of_lazily_opened_images() -> None:
    lazy = Image.open(io.BytesIO(bmp_of_run_lengths(9000, 8800, b"\1\0\0\0")))
    with pytest.raises(ImageError, match=r"^image: takes too long to decode"):
        pixels_from_source(lazy, SIDE)
