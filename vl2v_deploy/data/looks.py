"""What an image looks like at a glance: whether two files show the same picture, whatever their encoding.

A look is the image at 16 x 16 pixels. Two looks are the same picture where their pixels are close *and* the
same edges rise from left to right (a difference hash), as pictures of little contrast have close pixels too.

On EmojiDG, of copies of drawings (JPEG at quality 85 and 50, WebP at 30, at 64 and 224 px, at 72 px and JPEG
at 60) 98 to 100 % are found, and of its 1,940 training images 9 show the same picture as a val or test image
of another concept, such as two clock faces. Grey, mirrored or cropped copies are not found.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vl2v_deploy.client.preprocess import open_image, to_rgb
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.data.content import AT_ONCE, DATABASE

SIDE_PX = 16
LOOK_BYTES = SIDE_PX * SIDE_PX * 3
EDGE = 6  # grey values that a pixel must be brighter than its left neighbour
NEAR_RMS = 0.02 * 255  # root mean square difference of the pixels
NEAR_EDGES = 0.3  # share of the edges, of the look that has more, that the other lacks or adds
LOOK_VERSION = 1  # raise it when a look is made differently

Looks = npt.NDArray[np.uint8]  # (N, LOOK_BYTES)


def look_of(image: Image.Image) -> bytes:
    """The look of an RGB image, LOOK_BYTES bytes."""
    return image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR).tobytes()


def looks_of(files: Mapping[str, Path]) -> dict[str, bytes]:
    """The look of each image file by the hash of its bytes; each content is decoded once, ever.

    files: path by SHA-256 of its bytes, hexadecimal
    """
    with closing(sqlite3.connect(cache_dir() / DATABASE, timeout=60)) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS looks (sha256 TEXT, version INTEGER, look BLOB, "
            "PRIMARY KEY (sha256, version)) WITHOUT ROWID"
        )
        known = _remembered(list(files), database)
        unknown = [sha256 for sha256 in files if sha256 not in known]
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(unknown), AT_ONCE):
                chunk = unknown[start : start + AT_ONCE]
                made = dict(zip(chunk, pool.map(_look_of_file, (files[sha] for sha in chunk)), strict=True))
                rows = [(sha256, LOOK_VERSION, look) for sha256, look in made.items()]
                with database:
                    database.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", rows)
                known |= made
    return known


def first_same_picture(looks: Sequence[bytes], others: Sequence[bytes]) -> list[int | None]:
    """For each look, the first of `others` that shows the same picture; None where none does."""
    if not looks or not others:
        return [None] * len(looks)
    known = _pixels(others)
    known_edges = _edges(known)
    found: list[int | None] = []
    for start in range(0, len(looks), AT_ONCE):
        pixels = _pixels(looks[start : start + AT_ONCE])
        edges = _edges(pixels)
        squared = _squared_distances(pixels, known) / LOOK_BYTES  # (B, M)
        most = np.maximum(edges.sum(axis=1)[:, None], known_edges.sum(axis=1)[None])
        same_edges = _squared_distances(edges, known_edges) <= NEAR_EDGES * most + 0.5
        same = (squared <= NEAR_RMS**2) & same_edges
        found += [int(row.argmax()) if row.any() else None for row in same]
    return found


def _look_of_file(path: Path) -> bytes:
    return look_of(to_rgb(open_image(path)))


def _remembered(keys: Sequence[str], database: sqlite3.Connection) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(keys), AT_ONCE):
        chunk = keys[start : start + AT_ONCE]
        marks = ",".join("?" * len(chunk))
        query = f"SELECT sha256, look FROM looks WHERE version = ? AND sha256 IN ({marks})"
        found.update(database.execute(query, [LOOK_VERSION, *chunk]).fetchall())
    return found


def _pixels(looks: Sequence[bytes]) -> npt.NDArray[np.float32]:
    return np.frombuffer(b"".join(looks), dtype=np.uint8).reshape(-1, LOOK_BYTES).astype(np.float32)


def _edges(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Where a pixel is brighter than its left neighbour, 1 or 0; (N, 16 * 15 * 3)."""
    images = pixels.reshape(-1, SIDE_PX, SIDE_PX, 3)
    rises = images[:, :, 1:] - images[:, :, :-1] > EDGE
    return rises.reshape(len(pixels), -1).astype(np.float32)


def _squared_distances(
    rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(B, M)"""
    cross = rows @ others.T
    squared: npt.NDArray[np.float32] = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * cross
    return squared
