"""What was paid to a vendor with one key: a ledger on disk that threads and processes share.

    <ledger>.sqlite             open reservations, and totals by teacher, run, day and state
    <ledger>.owners/<unique>    held by the process whose reservations name it
    <ledger>.sqlite.lock        held while a process opens the ledger or looks for dead ones

Money is reserved before a query is sent and settled when its answer is on disk. In between it is in flight. A
query without an answer is lost: possibly paid, and counted as paid. A budget counts all three, inside the
transaction that reserves, so that no number of threads and processes passes it.

A reservation is synced to disk before `reserve` returns, so nothing is sent that a machine which loses power
forgets. What closes a reservation is not synced by itself: a power cut can lose it, and the reservation then
counts as possibly paid, in full. A process that is killed loses neither. Calls of threads that come while
others are being written share one transaction, and its sync.

The owner of a reservation lives as long as the operating system keeps its lock, so a process that has got the
number of a dead one is not taken for it. A forked child holds none of its parent's locks and owns what it
reserves itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from vl2v_deploy.data.cache import is_read_only, kept_dir, say_not_written
from vl2v_deploy.errors import BudgetError, ModelError, one_line
from vl2v_deploy.models.group_commit import GroupCommit
from vl2v_deploy.models.ledger.booking import booked_on
from vl2v_deploy.models.ledger.copied import opened_copy
from vl2v_deploy.models.ledger.owners import is_dead, new_owner
from vl2v_deploy.models.ledger.tables import PICO, State, close, prepare, remove, spent_by_state, sums

BUSY_S = 120.0  # how long a process waits for others to write


class Budget(NamedTuple):
    """The most that may ever be spent with a key: settled, reserved and unknown; None = no limit."""

    max_usd: float | None
    max_queries: int | None


class Entry(NamedTuple):
    """A sum of the ledger.

    run: the recipe, run or bundle that asked, as ledger.booking has it; "" where nothing was said
    day: of the reservation, in UTC, as 2026-11-28
    """

    teacher: str
    run: str
    day: str
    state: State
    images: int
    texts: int
    usd: float


def ledgers_folder() -> Path:
    """Where the ledgers of this machine's user are."""
    return kept_dir("ledgers")


def ledger_file(host: str, key_env: str | None) -> Path:
    """The ledger of a vendor and the environment variable that holds its key; nothing is made of the key.

    host: with the port, if it has one
    """
    of = json.dumps([host.lower(), key_env])
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{host.lower()}_{key_env or 'no-key'}")
    return ledgers_folder() / f"{readable}_{hashlib.sha256(of.encode()).hexdigest()[:8]}.sqlite"


class _Change(NamedTuple):
    """What a call does in the database; `synced`: it is on the disk itself when the call returns."""

    make: Callable[[sqlite3.Connection], Any]
    synced: bool = False


class Ledger:
    """The ledger in `file`, which is made at the first reservation; any thread may use it.

    Its methods raise ModelError when the file cannot be read or written.
    """

    def __init__(self, file: Path, budget: Budget) -> None:
        self.file, self.budget = file, budget
        self._owners = file.with_suffix(".owners")
        self._forget()
        _ledgers.add(self)

    def _forget(self) -> None:
        """Start as if nothing had been opened, also in a forked child."""
        self._guard = threading.Lock()
        self._write: GroupCommit[_Change, Any] = GroupCommit(self._write_together)
        self._database: sqlite3.Connection | None = None
        self._owner = ""
        self._owner_lock: FileLock | None = None

    def reserve(self, teacher: str, *, images: int, texts: int, usd: float) -> int:
        """Sets money aside for one request, before it is sent; the number of the reservation.

        Raises BudgetError when the budget has no room for it.
        """
        pico, day = round(usd * PICO), datetime.now(UTC).date().isoformat()
        run = booked_on()

        def insert(database: sqlite3.Connection) -> int:
            if problem := self._over_budget(database, images + texts, pico):
                raise BudgetError(problem)
            row = (self._owner, teacher, run, day, images, texts, pico)
            columns = "owner, teacher, run, day, images, texts, pico"
            added = database.execute(f"INSERT INTO reservation ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            assert added.lastrowid is not None
            return added.lastrowid

        number: int = self._write(_Change(insert, synced=True))
        return number

    def settle(self, reservation: int, *, images: int, texts: int, usd: float) -> None:
        """The answer is on disk; so many images and texts were billed."""
        billed = (images, texts, round(usd * PICO))
        self._write(_Change(lambda database: close(database, reservation, "settled", billed)))

    def lose(self, reservation: int) -> None:
        """No answer came to what was sent: possibly paid, and counted as paid."""
        self._write(_Change(lambda database: close(database, reservation, "unknown")))

    def release(self, reservation: int) -> None:
        """It was certainly not billed, because it was refused or never sent: it counts for nothing."""
        self._write(_Change(lambda database: remove(database, reservation)))

    def entries(self) -> list[Entry]:
        """All sums, after the reservations of dead processes became unknown; none for a new ledger.

        Of a ledger that must not be written, what it says: nobody is told dead there.
        """
        if not self.file.exists():
            return []
        try:
            with self._transaction(synced=False) as database:
                self._bury(database)
                rows = sums(database)
        except ModelError as error:
            if not is_read_only(error.__cause__):
                raise
            say_not_written(self.file.parent.parent, error.__cause__ or error)
            rows = self._sums_of_copy()
        return [Entry._make((*row[:6], row[6] / PICO)) for row in rows]

    def _sums_of_copy(self) -> list[tuple[Any, ...]]:
        try:
            with opened_copy(self.file) as database:
                return sums(database)
        except (sqlite3.Error, OSError) as error:
            raise ModelError(f"{self.file}: the ledger cannot be read ({one_line(error)})") from error

    def _over_budget(self, database: sqlite3.Connection, queries: int, pico: int) -> str | None:
        if self.budget == (None, None):
            return None
        spent, most = spent_by_state(database), self.budget
        if not self._passes(spent, queries, pico):
            return None
        self._bury(database)
        spent = spent_by_state(database)
        counted = ", ".join(
            f"${spent[state][1] / PICO:,.2f} ({spent[state][0]:,} queries) {words}"
            for state, words in (
                ("settled", "paid"),
                ("unknown", "possibly paid"),
                ("reserved", "in flight"),
            )
        )
        limits = [f"${most.max_usd:,.2f}"] if most.max_usd is not None else []
        limits += [f"{most.max_queries:,} queries"] if most.max_queries is not None else []
        return (
            f"teacher.budget: of {' and '.join(limits)}, {counted}; the next {queries:,} queries for "
            f"${pico / PICO:,.4f} would pass it. All that was answered is kept: raise teacher.budget in the "
            f"recipe and run the same command again, which buys only what is missing ({self.file})"
        )

    def _passes(self, spent: dict[str, tuple[int, int]], queries: int, pico: int) -> bool:
        max_usd, max_queries = self.budget
        queries += sum(each for each, _ in spent.values())
        pico += sum(each for _, each in spent.values())
        return (max_queries is not None and queries > max_queries) or (
            max_usd is not None and pico > round(max_usd * PICO)
        )

    def _bury(self, database: sqlite3.Connection) -> None:
        """What processes that are dead had in flight becomes unknown."""
        for (owner,) in database.execute("SELECT DISTINCT owner FROM reservation").fetchall():
            if owner != self._owner and is_dead(self._owners / owner):
                for (reservation,) in database.execute(
                    "SELECT id FROM reservation WHERE owner = ?", (owner,)
                ):
                    close(database, reservation, "unknown")

    def _write_together(self, changes: Sequence[_Change]) -> list[Any]:
        """The result of each change, all in one transaction; or the error that one of them refused with."""
        results: list[Any] = []
        with self._transaction(synced=any(change.synced for change in changes)) as database:
            for change in changes:
                try:
                    results.append(change.make(database))
                except (BudgetError, ValueError) as refusal:  # raised before anything is written
                    results.append(refusal)
        return results

    @contextmanager
    def _transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """Everything or nothing of the block is written, one process and thread at a time.

        synced: on the disk itself when the block ends, not only with the operating system
        """
        with self._guard:
            try:
                database = self._database or self._open()
                database.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                database.execute("BEGIN IMMEDIATE")
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    if database.in_transaction:
                        database.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise ModelError(
                    f"{self.file}: the ledger of what was paid cannot be used ({one_line(error)}); nothing "
                    "more is asked. Make room or permit writing there; if it is damaged, move it away, and "
                    "the budget counts from nothing"
                ) from error

    def _open(self) -> sqlite3.Connection:
        self._owners.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):  # nobody takes a lock that is being made for a dead one's
            for left in self._owners.iterdir():
                is_dead(left)
            database = sqlite3.connect(
                self.file, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                prepare(database)
                if self._owner_lock is None:  # else it was closed for a fork
                    self._owner, self._owner_lock = new_owner(self._owners)
            except BaseException:
                database.close()
                raise
        self._database = database
        return database


_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()
_forking: list[Ledger] = []
_of_parents: list[object] = []  # locks that a child must not let go of


def _close_before_fork() -> None:
    """SQLite must not be open across a fork: the child would believe that it holds its parent's locks."""
    for ledger in list(_ledgers):
        ledger._guard.acquire()
        _forking.append(ledger)
        if ledger._database is not None:
            ledger._database.close()
            ledger._database = None


def _go_on_in_parent() -> None:
    while _forking:
        _forking.pop()._guard.release()


def _forget_in_child() -> None:
    while _forking:
        ledger = _forking.pop()
        _of_parents.append(ledger._owner_lock)
        ledger._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_close_before_fork, after_in_parent=_go_on_in_parent, after_in_child=_forget_in_child
    )
