"""Which image files can be used, and the hash of each one's bytes; every file is read and decoded once, ever.

What was found is kept in a small database in the cache folder, so that the next look at a big set is a stat
an image. A file is the one that was read as long as its path, size, inode and the times of its last change
and of its inode's last change are. Some file systems make these up, and files can be exchanged below them:
some of the remembered hashes are checked each time, and none is believed where one is wrong.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vl2v_deploy.bars import tracked
from vl2v_deploy.client.images import TRUSTED, read_encoded, source_name
from vl2v_deploy.client.preprocess import open_rgb
from vl2v_deploy.data.database import AT_ONCE, opened_database, write_rows
from vl2v_deploy.data.looks import look_of, write_looks
from vl2v_deploy.errors import DataError, ImageError
from vl2v_deploy.names import shown
from vl2v_deploy.terminal import new_console

# Clocks of file systems tick slowly: a file changed this lately could change again and look the same.
SETTLED_NS = 2_000_000_000
RECHECKED = 64  # remembered hashes that are checked against the files, each time


@dataclass(frozen=True)
class Content:
    """What is in an image file.

    sha256:  of its bytes, hexadecimal; empty where they cannot be read
    problem: why it is no image that can be used; None where it can
    """

    sha256: str
    problem: str | None


class _State(NamedTuple):
    """What a folder says of a file."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class _Read(NamedTuple):
    """look: what the image looks like (see data.looks); None where it cannot be used"""

    content: Content
    look: bytes | None


def read_contents(paths: Sequence[Path]) -> list[Content]:
    """Hash and decode each image file, or remember both from the last time it was the same file.

    An image can be used if it can be made the RGB pixels that training and evaluation take. Only what can be
    used is remembered: a bad file is tried again each time, as another Pillow may read it.

    Raises DataError when the database in the cache folder cannot be used.
    """
    with opened_database() as database:
        return _read_contents([path.absolute() for path in paths], database)


def read_unchanged(path: Path, sha256: str) -> bytes:
    """The bytes of an image file, which must be those that were hashed.

    Raises DataError when they are others; what was remembered of the file is dropped. ImageError when it
    cannot be read.
    """
    encoded = read_encoded(path)
    if hashlib.sha256(encoded).hexdigest() != sha256:
        with opened_database() as database:
            _forget([path.absolute()], database)
        raise DataError(
            f"{shown(path)}: is no longer the image that was checked; leave the images alone during a run, "
            "and run it again"
        )
    return encoded


def _read_contents(paths: Sequence[Path], database: sqlite3.Connection) -> list[Content]:
    now = time.time_ns()
    states = {path: _state(path) for path in paths}
    contents = _believed(_remembered(states, database), database)
    unknown = [path for path in states if path not in contents]
    fresh: dict[Path, _Read] = {}

    def write_down() -> None:
        rows = [
            (os.fsencode(path), *state, read.content.sha256)
            for path, read in fresh.items()
            if (state := states[path]) and _is_settled(state, now) and read.content.problem is None
        ]
        write_rows(database, "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?)", rows)
        write_looks({read.content.sha256: read.look for read in fresh.values() if read.look}, database)
        contents.update({path: read.content for path, read in fresh.items()})
        fresh.clear()

    try:
        for path, read in zip(unknown, _read_again(unknown), strict=True):
            fresh[path] = read
            if len(fresh) >= AT_ONCE:
                write_down()
    finally:  # what was read is not lost on Ctrl-C
        write_down()
    return [contents[path] for path in paths]


def _remembered(states: dict[Path, _State | None], database: sqlite3.Connection) -> dict[Path, Content]:
    paths, found = list(states), {}
    for start in range(0, len(paths), AT_ONCE):
        keys = {os.fsencode(path): path for path in paths[start : start + AT_ONCE]}
        marks = ",".join("?" * len(keys))
        rows = database.execute(f"SELECT * FROM contents WHERE path IN ({marks})", list(keys))
        for key, *state, sha256 in rows:
            if states[keys[key]] == tuple(state):
                found[keys[key]] = Content(sha256, None)
    return found


def _believed(remembered: dict[Path, Content], database: sqlite3.Connection) -> dict[Path, Content]:
    """What is remembered, if some of it that is checked is right; else nothing of it, and it is forgotten."""
    chosen = random.sample(list(remembered), min(RECHECKED, len(remembered)))
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_hash, chosen)
        wrong = [
            path for path, sha256 in zip(chosen, hashes, strict=True) if remembered[path].sha256 != sha256
        ]
    if not wrong:
        return remembered
    new_console(stderr=True).print(
        f"{shown(wrong[0])}: holds other bytes than were hashed, though its folder entry did not change; all "
        f"{len(remembered)} images are read again.",
        soft_wrap=True,
    )
    _forget(list(remembered), database)
    return {}


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(read_encoded(path)).hexdigest()
    except ImageError:  # gone since; whoever needs it will say so
        return ""


def _forget(paths: Sequence[Path], database: sqlite3.Connection) -> None:
    keys = [(os.fsencode(path),) for path in paths]
    write_rows(database, "DELETE FROM contents WHERE path = ?", keys)


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()
    except OSError:
        return None  # reading it will say what is wrong
    inode = status.st_ino - 2**64 if status.st_ino >= 2**63 else status.st_ino  # SQLite's integers are signed
    return _State(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


def _is_settled(state: _State, now: int) -> bool:
    return max(state.mtime_ns, state.ctime_ns) < now - SETTLED_NS


def _read_again(paths: Sequence[Path]) -> Iterator[_Read]:
    if not paths:
        return
    with ThreadPoolExecutor() as pool:
        chunks = (paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE))
        contents = (content for chunk in chunks for content in pool.map(_read, chunk))
        yield from tracked(contents, "Checking images", total=len(paths))


def _read(path: Path) -> _Read:
    """Making the pixels is the only proof: headers of truncated files are fine, and so do floats decode."""
    try:
        encoded = read_encoded(path)
    except ImageError as error:
        return _Read(Content("", str(error).removeprefix(f"{source_name(path)}: ")), None)
    sha256 = hashlib.sha256(encoded).hexdigest()
    try:
        image = open_rgb(encoded, TRUSTED)
    except ImageError as error:
        return _Read(Content(sha256, str(error).removeprefix(f"<{len(encoded)} bytes>: ")), None)
    return _Read(Content(sha256, None), look_of(image))
