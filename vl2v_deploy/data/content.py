"""Which image files decode, and the hash of each one's bytes; every file is read and decoded once, ever.

What was found is kept in a small database in the cache folder, by path, size and time of the last change, so
that the next look at a big set is a stat an image. Several processes may use it at once.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from vl2v_deploy.client.preprocess import open_image
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.errors import DataError, ImageError

DATABASE = "images.sqlite3"
AT_ONCE = 500  # files asked for, or written down, in one go; fewer than SQLite's variables in a query
# Clocks of file systems tick slowly: a file changed this lately could change again and look the same.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Content:
    """What is in an image file.

    sha256:  of its bytes, hexadecimal; empty where they cannot be read
    problem: why it is no image that can be used; None where it decodes
    """

    sha256: str
    problem: str | None


def read_contents(paths: Sequence[Path]) -> list[Content]:
    """Hash and decode each image file, or remember both from the last time it had this size and time.

    Only what decodes is remembered: a bad file is tried again each time, as another Pillow may read it.

    Raises DataError when the database in the cache folder cannot be used.
    """
    database = cache_dir() / DATABASE
    try:
        with closing(sqlite3.connect(database, timeout=60)) as opened:
            opened.execute(
                "CREATE TABLE IF NOT EXISTS images "
                "(path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT) WITHOUT ROWID"
            )
            return _read_contents([path.absolute() for path in paths], opened)
    except sqlite3.Error as error:
        raise DataError(
            f"{database}: hashes of images cannot be kept there: {error}; delete it, it will be made "
            "again, or set VL2V_DEPLOY_CACHE to another folder"
        ) from error


def _read_contents(paths: Sequence[Path], database: sqlite3.Connection) -> list[Content]:
    now = time.time_ns()
    states = {path: _state(path) for path in paths}
    contents = _remembered(states, database)
    unknown = [path for path in states if path not in contents]
    fresh: dict[Path, Content] = {}

    def write_down() -> None:
        rows = [
            (os.fsencode(path), *state, content.sha256)
            for path, content in fresh.items()
            if (state := states[path]) and state[1] < now - SETTLED_NS and content.problem is None
        ]
        with database:
            database.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", rows)
        contents.update(fresh)
        fresh.clear()

    try:
        for path, content in zip(unknown, _read_again(unknown), strict=True):
            fresh[path] = content
            if len(fresh) >= AT_ONCE:
                write_down()
    finally:  # what was read is not lost on Ctrl-C
        write_down()
    return [contents[path] for path in paths]


def _remembered(
    states: dict[Path, tuple[int, int] | None], database: sqlite3.Connection
) -> dict[Path, Content]:
    paths, found = list(states), {}
    for start in range(0, len(paths), AT_ONCE):
        keys = {os.fsencode(path): path for path in paths[start : start + AT_ONCE]}
        marks = ",".join("?" * len(keys))
        rows = database.execute(f"SELECT * FROM images WHERE path IN ({marks})", list(keys))
        for key, size, mtime_ns, sha256 in rows:
            if states[keys[key]] == (size, mtime_ns):
                found[keys[key]] = Content(sha256, None)
    return found


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # reading it will say what is wrong
    return status.st_size, status.st_mtime_ns


def _read_again(paths: Sequence[Path]) -> Iterator[Content]:
    if not paths:
        return
    with ThreadPoolExecutor() as pool:
        chunks = (paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE))
        contents = (content for chunk in chunks for content in pool.map(_content, chunk))
        console = Console(stderr=True)
        yield from track(contents, "Checking images", total=len(paths), console=console, transient=True)


def _content(path: Path) -> Content:
    """Decoding is the only proof: headers of truncated files are fine."""
    try:
        encoded = path.read_bytes()
    except OSError as error:
        return Content("", f"cannot be read: {error.strerror or error}")
    sha256 = hashlib.sha256(encoded).hexdigest()
    try:
        open_image(encoded)
    except ImageError as error:
        return Content(sha256, str(error).removeprefix(f"<{len(encoded)} bytes>: "))
    return Content(sha256, None)
