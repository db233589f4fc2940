"""The budget of a day, in a file that threads and processes share and a restart finds again.

Money is counted as spent before a query is sent, on the disk itself, and given back only when the query was
certainly not billed. A process that is killed in between, or a machine that loses power, has spent it.
The file is an SQLite database of one table: its transactions are the lock between processes. A file that is
damaged, emptied or taken away says nothing of what was spent, so nothing more is: it is never made anew while
a budget is open, and an existing one must be whole when it is opened.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Literal

from vl2v_deploy.errors import SettingError, one_line

BUSY_S = 10.0  # how long a process waits for others to write
MAKING_S = 2.0  # ... and for another to make the file
PICO = 10**12  # money is kept as whole picodollars, so that sums are exact
KEPT_DAYS = 400


def utc_day() -> str:
    """Today in UTC, as 2026-11-28."""
    return datetime.now(UTC).date().isoformat()


class DailyBudget:
    """At most `max_usd` is spent in a day, by all who use the same file; None = no limit, only counted.

    file:  made where there is none; an empty one is refused
    today: the day, which is UTC's

    Making one and its methods raise SettingError when the file cannot be used.
    """

    def __init__(self, file: Path, max_usd: float | None, today: Callable[[], str] = utc_day) -> None:
        self.file, self.max_usd, self._today = file, max_usd, today
        self._used_up_on = ""  # a day of which another query was refused
        with self._explained():
            if not self.file.exists():
                _make(self.file)
            _require_made(self.file)
        with self._transaction("IMMEDIATE") as database:  # it must be possible to write, too
            _check_whole(database)

    def reserve(self, usd: float, queries: int) -> tuple[int, str]:
        """How many of the queries there is room for, at `usd` each, and the day on which they are booked.

        These are spent from now on.
        """
        day, pico = self._today(), _pico(usd)
        with self._transaction("IMMEDIATE") as database:
            spent = _spent(database, day)
            granted = queries
            if self.max_usd is not None and pico:
                granted = max(0, min(queries, (round(self.max_usd * PICO) - spent) // pico))
            database.execute(
                "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (day) DO UPDATE SET "
                "pico = pico + excluded.pico, queries = queries + excluded.queries",
                (day, granted * pico, granted),
            )
            database.execute(
                "DELETE FROM spent WHERE day NOT IN (SELECT day FROM spent ORDER BY day DESC LIMIT ?)",
                (KEPT_DAYS,),
            )
        if granted < queries:
            self._used_up_on = day
        return granted, day

    def release(self, usd: float, queries: int, day: str) -> None:
        """Give back what was reserved on `day` for queries that were certainly not billed."""
        with self._transaction("IMMEDIATE") as database:
            # Never below 0: another file may have taken the place of the one that was reserved in.
            database.execute(
                "UPDATE spent SET pico = MAX(0, pico - ?), queries = MAX(0, queries - ?) "
                "WHERE day = ? AND typeof(pico) = 'integer' AND pico >= 0",
                (queries * _pico(usd), queries, day),
            )
        self._used_up_on = ""

    @property
    def is_used_up(self) -> bool:
        """Whether a query was refused today; reads no file. Another process may have given money back."""
        return self._used_up_on == self._today()

    @property
    def spent_today_usd(self) -> float:
        with self._transaction("DEFERRED") as database:
            return _spent(database, self._today()) / PICO

    @contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[sqlite3.Connection]:
        """DEFERRED to read, which waits for no other reader; IMMEDIATE to write."""
        # A connection for each: it is cheap beside a query, and neither threads nor forks share one. mode=rw:
        # where the file is gone SQLite would make an empty one, in which nothing is spent.
        address = f"{self.file.absolute().as_uri()}?mode=rw"
        with (
            self._explained(),
            closing(sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)) as database,
        ):
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"BEGIN {kind}")
            yield database
            database.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, _DamagedError) as error:
            raise SettingError(
                f"{self.file}: what was spent cannot be read or written ({one_line(error)}), so the teacher "
                "is not asked; spent_file names a file in a folder that exists and may be written. If the "
                "file is damaged, move it away: a new one is made at the next start, and counts from 0"
            ) from error


class _DamagedError(Exception):
    """The file is a database, but not the one that was written."""


def _make(file: Path) -> None:
    """The file without a day, whole from the first moment; another process may be first.

    Where the file system has no hard links (FAT, some network and FUSE ones) it is empty at first: one
    process alone can create it, and puts the whole one in its place. `_require_made` waits for that.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
        made = Path(folder, "made")
        with closing(sqlite3.connect(made)) as database:
            database.execute("CREATE TABLE spent (day TEXT PRIMARY KEY, pico INTEGER, queries INTEGER)")
        with suppress(FileExistsError):
            try:
                os.link(made, file)
            except FileExistsError:
                raise
            except OSError:  # if it is not for want of links, what follows fails too, and says why
                file.touch(exist_ok=False)
                try:
                    made.replace(file)
                except OSError:
                    file.unlink()
                    raise


def _require_made(file: Path) -> None:
    """Waits a moment for the process that makes the file; _DamagedError where it stays empty."""
    until_s = monotonic() + MAKING_S
    while not file.stat().st_size:
        if monotonic() > until_s:
            raise _DamagedError("it is empty, and does not say that nothing was spent")
        sleep(0.01)


def _check_whole(database: sqlite3.Connection) -> None:
    [[said]] = database.execute("PRAGMA quick_check(1)").fetchall()
    if said != "ok":
        raise _DamagedError(said)
    for [day] in database.execute("SELECT day FROM spent").fetchall():
        _spent(database, day)


def _spent(database: sqlite3.Connection, day: str) -> int:
    row = database.execute("SELECT pico FROM spent WHERE day = ?", (day,)).fetchone()
    if row is None:
        return 0
    if not isinstance(row[0], int) or row[0] < 0:
        raise _DamagedError(f"{day}: spent is {row[0]!r}")
    return row[0]


def _pico(usd: float) -> int:
    """Whole picodollars; at least one where there is a price."""
    return max(round(usd * PICO), 1) if usd else 0
