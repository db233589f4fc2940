"""The tables of a ledger: open reservations, and what closed ones came to."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any, Literal

FORMAT = 2
PICO = 10**12  # money is kept in whole picodollars, so that sums are exact

State = Literal["settled", "unknown", "reserved"]

RESERVATION = """
CREATE TABLE reservation (
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, teacher TEXT NOT NULL, run TEXT NOT NULL,
    day TEXT NOT NULL, images INTEGER NOT NULL, texts INTEGER NOT NULL, pico INTEGER NOT NULL);
"""
# With the process that reserved, whose sums only grow: so ledgers can be merged, again and again.
TOTAL = """
CREATE TABLE total (
    owner TEXT NOT NULL, teacher TEXT NOT NULL, run TEXT NOT NULL, day TEXT NOT NULL, state TEXT NOT NULL,
    images INTEGER NOT NULL, texts INTEGER NOT NULL, pico INTEGER NOT NULL,
    PRIMARY KEY (owner, teacher, run, day, state)) WITHOUT ROWID;
"""


def prepare(database: sqlite3.Connection) -> None:
    """Makes the tables in a new database; sqlite3.DatabaseError for one of a format that is not known.

    database: in autocommit mode (isolation_level=None)
    """
    database.execute("PRAGMA journal_mode = WAL")
    if _format_of(database) == FORMAT:
        return
    database.execute("BEGIN IMMEDIATE")
    try:  # the format again: another process may have prepared it meanwhile
        if (found := _format_of(database)) == 0:
            database.execute(RESERVATION)
            database.execute(TOTAL)
        elif found == 1:
            _bring_up_to_date(database)
        elif found != FORMAT:
            raise sqlite3.DatabaseError(f"format {found}, and this version of vl2v-deploy knows {FORMAT}")
        database.execute(f"PRAGMA user_version = {FORMAT}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _format_of(database: sqlite3.Connection) -> int:
    [found] = database.execute("PRAGMA user_version").fetchone()
    return int(found)


def _bring_up_to_date(database: sqlite3.Connection) -> None:
    """Totals of format 1 name no process: they get one name together, which is the same in every copy."""
    rows = database.execute("SELECT * FROM total ORDER BY 1, 2, 3, 4").fetchall()
    owner = "format 1, " + hashlib.sha256(repr(rows).encode()).hexdigest()[:32]
    database.execute("ALTER TABLE total RENAME TO total_1")
    database.execute(TOTAL)
    database.execute("INSERT INTO total SELECT ?, * FROM total_1", (owner,))
    database.execute("DROP TABLE total_1")


def close(
    database: sqlite3.Connection, reservation: int, state: State, billed: tuple[int, int, int] | None = None
) -> None:
    """Books a reservation on the totals, as `billed` or in full."""
    row = remove(database, reservation)
    database.execute(
        "INSERT INTO total VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET images = images + "
        "excluded.images, texts = texts + excluded.texts, pico = pico + excluded.pico",
        (*row[:4], state, *(billed or row[4:])),
    )


def remove(database: sqlite3.Connection, reservation: int) -> tuple[Any, ...]:
    """What was reserved: owner, teacher, run, day, images, texts, picodollars."""
    columns = "owner, teacher, run, day, images, texts, pico"
    removed = database.execute(f"DELETE FROM reservation WHERE id = ? RETURNING {columns}", (reservation,))
    row: tuple[Any, ...] | None = removed.fetchone()
    if row is None:
        raise ValueError(f"reservation {reservation} is closed already, or was never made")
    return row


def sums(database: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Teacher, run, day, state, images, texts, picodollars; in this order."""
    return database.execute(
        "SELECT teacher, run, day, state, sum(images), sum(texts), sum(pico) FROM total "
        "GROUP BY teacher, run, day, state UNION ALL "
        "SELECT teacher, run, day, 'reserved', sum(images), sum(texts), sum(pico) FROM reservation "
        "GROUP BY teacher, run, day ORDER BY 1, 2, 3, 4"
    ).fetchall()


def spent_by_state(database: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Queries and picodollars of each state."""
    found: dict[str, tuple[int, int]] = {"settled": (0, 0), "unknown": (0, 0), "reserved": (0, 0)}
    for state, queries, pico in database.execute(
        "SELECT state, sum(images + texts), sum(pico) FROM total GROUP BY state UNION ALL "
        "SELECT 'reserved', sum(images + texts), sum(pico) FROM reservation HAVING count(*)"
    ):
        found[state] = queries, pico
    return found
