"""The budget of a day, in a file that threads and processes share and a restart finds again.

Money is counted as spent before a query is sent, on the disk itself, and given back only when the query was
certainly not billed. A process that is killed in between, or a machine that loses power, has spent it.
The file is an SQLite database of one table: its transactions are the lock between processes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from vl2v_deploy.errors import SettingError, one_line

BUSY_S = 10.0  # how long a process waits for others to write
PICO = 10**12  # money is kept as whole picodollars, so that sums are exact
KEPT_DAYS = 400


def utc_day() -> str:
    """Today in UTC, as 2026-11-28."""
    return datetime.now(UTC).date().isoformat()


class DailyBudget:
    """At most `max_usd` is spent in a day, by all who use the same file; None = no limit, only counted.

    file:  made where there is none
    today: the day, which is UTC's

    Its methods raise SettingError when the file cannot be used.
    """

    def __init__(self, file: Path, max_usd: float | None, today: Callable[[], str] = utc_day) -> None:
        self.file, self.max_usd, self._today = file, max_usd, today
        self._used_up_on = ""  # a day of which another query was refused
        with self._transaction() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS spent (day TEXT PRIMARY KEY, pico INTEGER, queries INTEGER)"
            )

    def reserve(self, usd: float, queries: int) -> tuple[int, str]:
        """How many of the queries there is room for, at `usd` each, and the day on which they are booked.

        These are spent from now on.
        """
        day, pico = self._today(), round(usd * PICO)
        with self._transaction() as database:
            spent = _spent(database, day)
            granted = queries
            if self.max_usd is not None and pico:
                granted = max(0, min(queries, (round(self.max_usd * PICO) - spent) // pico))
            _add(database, day, granted * pico, granted)
            database.execute(
                "DELETE FROM spent WHERE day NOT IN (SELECT day FROM spent ORDER BY day DESC LIMIT ?)",
                (KEPT_DAYS,),
            )
        if granted < queries:
            self._used_up_on = day
        return granted, day

    def release(self, usd: float, queries: int, day: str) -> None:
        """Give back what was reserved on `day` for queries that were certainly not billed."""
        with self._transaction() as database:
            _add(database, day, -queries * round(usd * PICO), -queries)
        self._used_up_on = ""

    @property
    def is_used_up(self) -> bool:
        """Whether a query was refused today; reads no file. Another process may have given money back."""
        return self._used_up_on == self._today()

    @property
    def spent_today_usd(self) -> float:
        with self._transaction() as database:
            return _spent(database, self._today()) / PICO

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # A connection for each: it is cheap beside a query, and neither threads nor forks share one.
        try:
            opened = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None)
            with closing(opened) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise SettingError(
                f"{self.file}: what was spent cannot be read or written ({one_line(error)}), so the teacher "
                "is not asked; spent_file names a file in a folder that exists and may be written"
            ) from error


def _spent(database: sqlite3.Connection, day: str) -> int:
    row = database.execute("SELECT pico FROM spent WHERE day = ?", (day,)).fetchone()
    return int(row[0]) if row else 0


def _add(database: sqlite3.Connection, day: str, pico: int, queries: int) -> None:
    database.execute(
        "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (day) DO UPDATE SET pico = pico + excluded.pico, "
        "queries = queries + excluded.queries",
        (day, pico, queries),
    )
