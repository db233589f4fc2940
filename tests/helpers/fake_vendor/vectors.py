"""Embeddings of the fake vendor: a smooth function of pixels, a hash of a text; no model."""

from __future__ import annotations

import hashlib
import math
import re
from functools import cache

import numpy as np
from PIL import Image

GRID = 4  # an image is its GRID x GRID mean colours
# A text that names one of them lies near the plain picture of it: so zero-shot accuracy means something.
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}


def image_embedding(image: Image.Image, dimensions: int) -> np.ndarray:
    """float32 (D,), L2-normalised."""
    colours = np.asarray(image.convert("RGB").resize((GRID, GRID), Image.Resampling.BOX), np.float64)
    return _of_colours(colours, dimensions).astype(np.float32)


def text_embedding(text: str, dimensions: int) -> np.ndarray:
    """float32 (D,), L2-normalised."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    row = _normalised(np.random.default_rng(seed).normal(size=dimensions))
    for word in re.findall(r"[a-z]+", text[:200].lower()):
        if word in COLOURS:
            plain = np.broadcast_to(np.array(COLOURS[word], np.float64), (GRID, GRID, 3))
            row = _normalised(_of_colours(plain, dimensions) + 0.2 * row)
    return row.astype(np.float32)


def rotated(row: np.ndarray, angle: float) -> np.ndarray:
    """The embedding of a model that moved: its cosine to the old one is cos(angle), for an even D."""
    result = row.copy()
    even = len(row) // 2 * 2
    x, y = row[0:even:2], row[1:even:2]
    result[0:even:2] = math.cos(angle) * x - math.sin(angle) * y
    result[1:even:2] = math.sin(angle) * x + math.cos(angle) * y
    return result


def _of_colours(colours: np.ndarray, dimensions: int) -> np.ndarray:
    centred = colours.reshape(-1) / 255 - 0.5
    return _normalised(np.append(centred, 0.01) @ _map(dimensions))  # grey is no zero vector


@cache
def _map(dimensions: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(GRID * GRID * 3 + 1, dimensions))


def _normalised(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)
