"""Decoded training images in memory, as many as the recipe allows."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from vl2v_deploy.client.preprocess import Pixels, open_image, to_rgb


class ImageCache:
    """Images by path, decoded once while there is room; safe to share between threads.

    held_bytes: pixels held, never more than the limit
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._held: dict[Path, Pixels] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> Pixels:
        """The image upright, opaque and RGB; uint8 (H, W, 3), read-only, because others share it.

        Raises ImageError when the file is missing or does not decode.
        """
        if (held := self._held.get(path)) is not None:
            return held
        # Decoding is long and must not be waited for: two threads may both do it, one result is kept.
        pixels = np.asarray(to_rgb(open_image(path)))
        pixels.flags.writeable = False
        with self._lock:
            # First come, first kept, nothing is ever thrown out: an epoch visits every image once, in random
            # order, so what was used last is what comes back last. Of a set larger than the limit this
            # finds limit/size of the images, where keeping the most recent ones would find fewer.
            if path not in self._held and self.held_bytes + pixels.nbytes <= self.limit_bytes:
                self._held[path] = pixels
                self.held_bytes += pixels.nbytes
        return pixels
