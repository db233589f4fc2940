"""Decoded images in memory, up to the recipe's limit: whole images to crop from, squares to evaluate on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vl2v_deploy.client.images import TRUSTED
from vl2v_deploy.client.preprocess import Pixels, open_rgb, pixels_from_source


class ImageCache:
    """Images by path and size, decoded once while there is room; safe to share between threads.

    held_bytes: pixels held, never more than the limit
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._held: dict[tuple[Path, int | None], Pixels] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> Pixels:
        """The whole image upright, opaque and RGB; uint8 (H, W, 3), read-only, because others share it.

        Raises ImageError when the file is missing or cannot be used.
        """
        return self._get((path, None), lambda: np.asarray(open_rgb(path, TRUSTED)))

    def square(self, path: Path, size_px: int) -> Pixels:
        """The image as the client makes it for the student; uint8 (S, S, 3), read-only, as others share it.

        Not made from the image that `get` holds: a large JPEG is decoded at a smaller scale for it.

        Raises ImageError when the file is missing or cannot be used.
        """
        return self._get((path, size_px), lambda: pixels_from_source(path, size_px, TRUSTED))

    def _get(self, key: tuple[Path, int | None], decode: Callable[[], Pixels]) -> Pixels:
        if (held := self._held.get(key)) is not None:
            return held
        # Decoding is long and must not be waited for: two threads may both do it, one result is kept.
        pixels = decode()
        pixels.flags.writeable = False
        with self._lock:
            # First come, first kept, nothing is ever thrown out: an epoch visits every image once, in random
            # order, so what was used last is what comes back last. Of a set larger than the limit this
            # finds limit/size of the images, where keeping the most recent ones would find fewer.
            if key not in self._held and self.held_bytes + pixels.nbytes <= self.limit_bytes:
                self._held[key] = pixels
                self.held_bytes += pixels.nbytes
        return pixels
