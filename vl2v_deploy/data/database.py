"""The database in the cache folder of what is known about image files, for several processes at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.errors import DataError

DATABASE = "images.sqlite3"
AT_ONCE = 500  # rows asked for, or written down, in one go; fewer than SQLite's variables in a query
# contents: of a file, the hash of its bytes; looks: of a content, see data.looks. A file counts as unchanged
# while all that its folder entry says is the same. Earlier versions kept hashes in a table `images`.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS contents (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
    "ctime_ns INTEGER, inode INTEGER, sha256 TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS looks (sha256 TEXT, version INTEGER, look BLOB, "
    "PRIMARY KEY (sha256, version)) WITHOUT ROWID",
)


@contextmanager
def opened_database() -> Iterator[sqlite3.Connection]:
    """The database, made if need be.

    Raises DataError when it cannot be used.
    """
    database = cache_dir() / DATABASE
    try:
        with closing(sqlite3.connect(database, timeout=60)) as opened:
            for table in _TABLES:
                opened.execute(table)
            yield opened
    except sqlite3.Error as error:
        raise DataError(
            f"{database}: hashes of images cannot be kept there: {error}; delete it, it will be made "
            "again, or set VL2V_DEPLOY_CACHE to another folder"
        ) from error
