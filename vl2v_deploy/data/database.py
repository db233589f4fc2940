"""The database in the cache folder of what is known about image files, for several processes at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from vl2v_deploy.data.cache import cache_dir, say_not_written, sqlite_code
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
    """The database, made if need be; where it cannot be made, one that is forgotten again, with a notice.

    Raises DataError when it cannot be used.
    """
    database = cache_dir() / DATABASE
    try:
        with closing(_open(database)) as opened:
            yield opened
    except sqlite3.Error as error:
        raise DataError(
            f"{database}: hashes of images cannot be kept there: {error}; delete it, it will be made "
            "again, or set VL2V_DEPLOY_CACHE to another folder"
        ) from error


def write_rows(database: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Runs the statement for each row, in one transaction; not at all on a disk that is read-only or full.

    What is not written down is found out again the next time, which costs time alone.
    """
    try:
        with database:
            database.executemany(statement, rows)
    except sqlite3.OperationalError as error:
        if not _is_refused(error):
            raise
        say_not_written(cache_dir(), error)


def _open(file: Path) -> sqlite3.Connection:
    try:
        return _with_tables(sqlite3.connect(file, timeout=60))
    except sqlite3.OperationalError as error:
        cannot_be_made = sqlite_code(error) == sqlite3.SQLITE_CANTOPEN and not file.is_dir()
        if not (cannot_be_made or _is_refused(error)):
            raise
        say_not_written(file.parent, error)
    return _with_tables(sqlite3.connect(":memory:"))


def _with_tables(database: sqlite3.Connection) -> sqlite3.Connection:
    try:
        for table in _TABLES:
            database.execute(table)
    except BaseException:
        database.close()
        raise
    return database


def _is_refused(error: sqlite3.Error) -> bool:
    """Whether the disk is read-only or full, and the database itself is not to blame."""
    return sqlite_code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL)
