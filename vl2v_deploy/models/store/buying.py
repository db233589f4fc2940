"""One purchase: what is missing is locked part by part, asked about, and on disk as each answer comes.

Keys are divided into parts, each with a lock. Whoever buys holds the locks of the parts whose items it has
given out, looks again at what other processes have bought by then, and lets go of a part when a shard holds
all of it: processes that want the same images share the work and pay once. The operating system releases the
locks of a killed process; its journal is folded by whoever comes next.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from vl2v_deploy.models.store.disk import on_disk
from vl2v_deploy.models.store.journal import Journal
from vl2v_deploy.models.store.keys import part_of


class Purchase:
    """Gives out the items of `missing` as long as a part of them can be locked, and keeps the answers.

    missing:    key -> item; what is held, bought here or by others, is removed from it
    drop_held:  removes from `missing` what is held by now, also by journals of processes that are gone
    shard_rows, shard_s: a shard is closed after so many embeddings or seconds

    kept: how many embeddings it has kept

    `items` may be pulled in one thread while `keep` is called in others: it does not wait for their disk.
    """

    def __init__(
        self,
        folder: Path,
        dim: int,
        missing: dict[bytes, int],
        drop_held: Callable[[], None],
        *,
        shard_rows: int,
        shard_s: float,
    ) -> None:
        self.folder, self.dim, self.missing, self.drop_held = folder, dim, missing, drop_held
        self.shard_rows, self.shard_s = shard_rows, shard_s
        self.kept = 0
        self._sent: list[bytes] = []  # keys in the order of their items
        self._open: Counter[int] = Counter()  # given out and not answered yet, by part
        self._held: dict[int, FileLock] = {}
        self._giving_out: int | None = None  # the part
        self._journal: Journal | None = None
        self._started = 0.0  # the journal was
        self._writing = threading.Lock()  # the journal; taken before the other one
        self._guard = threading.Lock()  # all the rest

    def items(self) -> Iterator[int]:
        """Items to ask about, of one locked part after another; at least one part, if it has to wait for it.

        There is room on disk for the answer before an item is given out; ModelError where there is none.
        """
        by_part: dict[int, list[bytes]] = {}
        for key in self.missing:
            by_part.setdefault(part_of(key), []).append(key)
        waits_for = None if any(map(self._lock, by_part)) else next(iter(by_part), None)
        for part, keys in by_part.items():
            with self._guard:
                if not (part in self._held or self._lock(part, waits=part == waits_for)):
                    continue
                self._giving_out = part
                self.drop_held()
            for key in keys:
                with self._guard:
                    item, has_room = self.missing.get(key), self._has_room()
                    if item is not None and has_room:
                        self._give_out(key)
                if item is not None and not has_room:
                    with self._writing, self._guard:
                        self._make_room()
                        self._give_out(key)
                if item is not None:
                    yield item
        with self._guard:
            self._giving_out = None

    def keep(self, positions: Sequence[int], rows: Tensor) -> None:
        """Puts an answer on disk.

        positions: in what `items` gave
        rows:      (n, D)
        """
        with self._writing:
            with self._guard:
                keys = [self._sent[position] for position in positions]
            assert self._journal is not None
            self._journal.append(keys, rows)
            with self._guard:
                for key in keys:
                    self._open[part_of(key)] -= 1
                    del self.missing[key]
                self.kept += len(keys)

    @property
    def unanswered(self) -> int:
        """How many items were given out and not kept."""
        return self._open.total()

    def finish(self) -> None:
        """Closes the last shard and lets go of all parts."""
        try:
            journal, self._journal = self._journal, None
            if journal is not None:
                journal.fold()
        finally:
            for lock in self._held.values():
                lock.release()
            self._held.clear()

    def _give_out(self, key: bytes) -> None:
        self._sent.append(key)
        self._open[part_of(key)] += 1

    def _lock(self, part: int, *, waits: bool = False) -> bool:
        lock = FileLock(self.folder / f".lock-{part}", thread_local=False)
        with on_disk(self.folder):
            try:
                lock.acquire(timeout=-1 if waits else 0)
            except Timeout:
                return False
        self._held[part] = lock
        return True

    def _is_full(self) -> bool:
        """Whether the journal is to become a shard."""
        assert self._journal is not None
        return self._journal.rows >= self.shard_rows or (
            self._journal.rows > 0 and time.monotonic() - self._started > self.shard_s
        )

    def _has_room(self) -> bool:
        """Whether the journal takes the answers to all that is asked, and to one item more."""
        journal = self._journal
        return journal is not None and not self._is_full() and journal.rows + self.unanswered < journal.room

    def _make_room(self) -> None:
        """Makes that room: a new journal, or a larger one."""
        waiting = self.unanswered
        if self._journal is None or self._is_full():
            rows = max(min(len(self.missing), self.shard_rows), waiting + 1)
            # The new one is there before the old one goes: answers are on the way.
            closed, self._journal = self._journal, Journal(self.folder, self.dim, rows)
            self._started = time.monotonic()
            if closed is not None:
                closed.fold()
            self._let_go()
        elif not self._has_room():
            self._journal.make_room(2 * (waiting + 1))

    def _let_go(self) -> None:
        """Releases parts of which shards hold all that was given out."""
        for part in [part for part in self._held if part != self._giving_out and not self._open[part]]:
            self._held.pop(part).release()
