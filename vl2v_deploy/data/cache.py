"""Where things are kept between runs: what can be made again in a cache, what was paid for beside it.

A cache that cannot be written is used for what it holds.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from vl2v_deploy.errors import DataError, one_line
from vl2v_deploy.terminal import say_once

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def cache_dir() -> Path:
    """The cache folder, made if need be: $VL2V_DEPLOY_CACHE, else the user's cache for vl2v-deploy.

    Raises DataError where it can be neither found nor made.
    """
    path = cache_place()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path}: the cache folder cannot be made ({one_line(error)}); set VL2V_DEPLOY_CACHE to a folder "
            "that can be written"
        ) from error
    return path


def cache_place() -> Path:
    """Where `cache_dir` is, whether or not it was made."""
    named = os.environ.get("VL2V_DEPLOY_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("vl2v-deploy", appauthor=False))


def kept_dir(name: str) -> Path:
    """The folder `name` of what a cleared cache must not lose, such as paid answers; it is not made here.

    $VL2V_DEPLOY_CACHE holds it too; else it is in the user's data folder. It was in the user's cache before,
    from where it is moved.
    """
    if named := os.environ.get("VL2V_DEPLOY_CACHE"):
        return Path(named) / name
    kept = Path(platformdirs.user_data_dir("vl2v-deploy", appauthor=False)) / name
    earlier = Path(platformdirs.user_cache_dir("vl2v-deploy", appauthor=False)) / name
    if earlier.is_dir() and not kept.exists():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            earlier.rename(kept)
        except FileNotFoundError:  # another process has just moved it
            return kept
        except OSError:  # on another disk, or one that is read-only
            return earlier
    return kept


@contextmanager
def made_in_cache(what: str) -> Iterator[None]:
    """DataError that names the cache where the system refuses to write inside the block."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{cache_dir()}: {what} cannot be kept there ({one_line(error)}); make room or permit writing "
            "there, or set VL2V_DEPLOY_CACHE to another folder"
        ) from error


def is_read_only(error: BaseException | None) -> bool:
    """Whether the system, or SQLite, refused to write at a place where reading is permitted."""
    if isinstance(error, sqlite3.Error):
        return sqlite_code(error) == sqlite3.SQLITE_READONLY
    return isinstance(error, OSError) and error.errno in _READ_ONLY


def sqlite_code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for an error of Python's module itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def say_not_written(cache: Path, error: BaseException) -> None:
    """Says once of a cache that nothing is written down there, whichever part of it was refused first."""
    why = "is read-only" if is_read_only(error) else f"cannot be written ({' '.join(str(error).split())})"
    say_once(f"{cache}: {why}: what it holds is used, and nothing is written down there.")
