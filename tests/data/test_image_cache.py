from __future__ import annotations

import gc
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vl2v_deploy.client.preprocess import pixels_from_source, preprocess
from vl2v_deploy.data import image_cache
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.errors import ImageError

SIDE, COUNT = 100, 60
IMAGE_BYTES = SIDE * SIDE * 3
SMALLEST_OBJECT_BYTES = 16
FRAMES = 25  # more than lie between the cache and Pillow's innermost call


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path, compress_level=0)
    return paths


def test_a_set_twelve_times_the_limit_stays_within_it(images: list[Path]) -> None:
    limit = COUNT * IMAGE_BYTES // 12
    cache = ImageCache(limit)
    rng = np.random.default_rng(1)

    def walk() -> int:
        for row in rng.permutation(COUNT):
            assert cache.get(images[row]).shape == (SIDE, SIDE, 3)
            assert cache.held_bytes <= limit
        return bytes_left_by_the_cache()

    ImageCache(0).get(images[0])  # Pillow imports its decoders when it first needs them
    tracemalloc.start(FRAMES)
    try:
        used = [walk() for _ in range(5)]
    finally:
        tracemalloc.stop()
    assert cache.held_bytes == limit // IMAGE_BYTES * IMAGE_BYTES
    # No more than what is said to be held, and the books of it; flat, not by one small object an image.
    assert cache.held_bytes < max(used) < cache.held_bytes + IMAGE_BYTES
    assert max(used[1:]) - used[0] < COUNT * SMALLEST_OBJECT_BYTES


def bytes_left_by_the_cache() -> int:
    """Memory that is still held of what was allocated inside ImageCache.get, whatever other threads do.

    CPython looks attributes up through a cache of 4096 names, which keeps those that Pillow puts together
    ("chunk_IHDR", "zip_decoder") anew for each image; it is emptied, or it would look like a leak until full.
    """
    gc.collect()
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()  # the first from Python 3.13 on
    below = tracemalloc.Filter(True, image_cache.__file__, all_frames=True)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([below]).traces)


def test_what_is_held_is_not_read_again_and_what_is_not_is(images: list[Path]) -> None:
    cache = ImageCache(IMAGE_BYTES)
    first, second = cache.get(images[0]), cache.get(images[1])
    assert np.array_equal(first, np.asarray(Image.open(images[0])))
    for path in images[:2]:
        path.unlink()
    assert cache.get(images[0]) is first
    with pytest.raises(ImageError, match="cannot be read"):
        cache.get(images[1])
    assert not second.flags.writeable  # other threads see the same pixels
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0


def test_no_memory_allowed_holds_nothing(images: list[Path]) -> None:
    cache = ImageCache(0)
    assert np.array_equal(cache.get(images[0]), np.asarray(Image.open(images[0])))
    assert cache.held_bytes == 0


def test_squares_are_what_the_client_makes_and_held_apart(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "large.jpg"
    Image.fromarray(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(path)
    cache = ImageCache(10**6)
    square = cache.square(path, 16)
    assert np.array_equal(square, pixels_from_source(path, 16))
    assert not np.array_equal(
        square, preprocess(Image.fromarray(cache.get(path)), 16)
    )  # decoded at a fraction
    assert cache.held_bytes == 16 * 16 * 3 + 400 * 400 * 3
    path.unlink()
    assert cache.square(path, 16) is square and not square.flags.writeable
    with pytest.raises(ImageError, match="cannot be read"):
        cache.square(path, 17)


def test_threads_count_each_image_once(images: list[Path]) -> None:
    cache = ImageCache(10 * IMAGE_BYTES)
    with ThreadPoolExecutor(8) as pool:
        shown = list(pool.map(cache.get, images[:8] * 20))
    assert cache.held_bytes == 8 * IMAGE_BYTES
    assert all(np.array_equal(a, b) for a, b in zip(shown, shown[8:] + shown[:8], strict=True))
