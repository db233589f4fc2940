"""Requests of many clients, gathered into batches for one teacher in one thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vl2v_deploy.errors import BusyError, ClosedError
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.serving.metrics import Metrics

Kind = Literal["image", "text"]


class _Query:
    """What one request asked: its items, and the embeddings that are there already."""

    def __init__(self, kind: Kind, items: Sequence[Any]) -> None:
        self.kind, self.items = kind, items
        self.rows: list[Tensor | None] = [None] * len(items)
        self.missing = len(items)
        self.future: Future[Tensor] = Future()


class _Entry(NamedTuple):
    query: _Query
    position: int


class Batcher:
    """Embeds images and texts of concurrent requests; each answer keeps its own order.

    max_batch:    items in one call of the teacher; at most its batch_size
    max_delay_ms: how long the first item of a batch waits for others
    max_queue:    items that wait or are computed at once
    """

    def __init__(
        self, teacher: Teacher, metrics: Metrics, *, max_batch: int, max_delay_ms: float, max_queue: int
    ) -> None:
        self._teacher, self._metrics = teacher, metrics
        self._max_batch = min(max_batch, teacher.batch_size)
        self._max_delay_s, self._max_queue = max_delay_ms / 1000, max_queue
        self._changed = threading.Condition()
        self._waiting: deque[_Entry] = deque()
        self._accepted = 0  # items that wait or are computed
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)
        self._thread.start()

    async def embed(self, kind: Kind, items: Sequence[Any]) -> Tensor:
        """One embedding for each image or text, in their order; float32 (len(items), D).

        Raises BusyError when the queue has no room for them, ClosedError after close, and what the teacher
        raises.
        """
        return await asyncio.wrap_future(self._submit(kind, items).future)

    def close(self) -> None:
        """Answers what was accepted, then ends the thread; nothing is accepted any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, kind: Kind, items: Sequence[Any]) -> _Query:
        query = _Query(kind, items)
        with self._changed:
            if self._closing:
                raise ClosedError("the server is stopping")
            if self._accepted + len(items) > self._max_queue:
                raise BusyError(
                    f"{self._accepted} images and texts are in the queue, which holds {self._max_queue}; "
                    "try again later"
                )
            self._change_accepted(len(items))
            self._waiting.extend(_Entry(query, position) for position in range(len(items)))
            self._changed.notify_all()
        return query

    def _change_accepted(self, items: int) -> None:
        self._accepted += items
        self._metrics.queue_items.set(self._accepted)

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._compute(batch)
            finally:
                with self._changed:
                    self._change_accepted(-len(batch))

    def _next_batch(self) -> list[_Entry]:
        """Up to max_batch items of one kind, the oldest first; [] when the server stops and none is left."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                self._wait_for_others()
                self._forget_cancelled()
                if self._waiting:
                    return self._taken(self._waiting[0].query.kind)
                if self._closing:
                    return []

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + self._max_delay_s
        while not self._closing and len(self._waiting) < self._max_batch:
            if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                return

    def _taken(self, kind: Kind) -> list[_Entry]:
        batch: list[_Entry] = []
        others: deque[_Entry] = deque()
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            (batch if entry.query.kind == kind else others).append(entry)
        self._waiting.extendleft(reversed(others))
        return batch

    def _forget_cancelled(self) -> None:
        """Drops what belongs to a request whose client has gone, or that failed."""
        kept = deque(entry for entry in self._waiting if not entry.query.future.done())
        self._change_accepted(len(kept) - len(self._waiting))
        self._waiting = kept

    def _compute(self, batch: list[_Entry]) -> None:
        kind = batch[0].query.kind
        items = [entry.query.items[entry.position] for entry in batch]
        self._metrics.batch_size.labels(kind).observe(len(batch))
        try:
            with self._metrics.teacher_seconds.labels(kind).time(), torch.inference_mode():
                embed = self._teacher.embed_images if kind == "image" else self._teacher.embed_texts
                rows = embed(items)
        except Exception as error:  # whatever it is, the clients that wait must hear of it
            for query in {id(entry.query): entry.query for entry in batch}.values():
                _end(query.future, error)
            return
        for entry, row in zip(batch, rows, strict=True):
            entry.query.rows[entry.position] = row
            entry.query.missing -= 1
            if not entry.query.missing:
                _end(entry.query.future, torch.stack([row for row in entry.query.rows if row is not None]))


def _end(future: Future[Tensor], outcome: Tensor | Exception) -> None:
    """Answers a future, unless its client has gone meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
