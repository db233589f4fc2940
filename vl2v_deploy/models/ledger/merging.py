"""What one ledger says was paid, added to another; the same ledger any number of times counts once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from vl2v_deploy.errors import ModelError, one_line
from vl2v_deploy.models.ledger.copied import opened_copy
from vl2v_deploy.models.ledger.ledger import BUSY_S, Budget, Ledger
from vl2v_deploy.models.ledger.tables import prepare

# A process's sums only grow: of two versions of them the larger is the later one.
_ADD = (
    "INSERT INTO total VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET images = max(images, "
    "excluded.images), texts = max(texts, excluded.texts), pico = max(pico, excluded.pico)"
)


def in_flight(file: Path, is_meant: Callable[[str], bool]) -> int:
    """Queries in a ledger of which it is not known yet what they cost, of the teachers that are meant."""
    entries = [entry for entry in Ledger(file, Budget(None, None)).entries() if is_meant(entry.teacher)]
    return sum(entry.images + entry.texts for entry in entries if entry.state == "reserved")


def merge_ledger(file: Path, into: Path, is_meant: Callable[[str], bool]) -> None:
    """Adds what the ledger `file` holds of the teachers that are meant to the ledger `into`, made if need be.

    Raises ModelError where one cannot be read, or the other not be written.
    """
    try:
        with opened_copy(file) as database:
            prepare(database)
            rows = [row for row in database.execute("SELECT * FROM total").fetchall() if is_meant(row[1])]
        if not rows:
            return
        into.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(f"{into}.lock"),
            closing(sqlite3.connect(into, timeout=BUSY_S, isolation_level=None)) as database,
        ):
            prepare(database)
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_ADD, rows)
            database.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise ModelError(
            f"{file}: what it says was paid cannot be added to {into} ({one_line(error)}); make room or "
            "permit writing there, and merge again: nothing is counted twice"
        ) from error
