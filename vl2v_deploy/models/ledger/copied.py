"""A ledger that lies where nothing may be written, read from a copy."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path


@contextmanager
def opened_copy(file: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a database, with what is not yet in its main file.

    SQLite needs to write beside a database even to read it, where it has a write-ahead log.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        shutil.copyfile(file, copy)
        with suppress(FileNotFoundError):  # there is none, or it is in the main file by now
            shutil.copyfile(f"{file}-wal", f"{copy}-wal")
        with closing(sqlite3.connect(copy, isolation_level=None)) as database:
            yield database
