"""Many requests in flight: items are pulled as they are needed, encoded in threads, asked about in others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
S = TypeVar("S")

ENCODERS = min(8, os.cpu_count() or 1)
# Requests that are ready or in flight, for each that may be in flight.
AHEAD = 2


class Lot(NamedTuple, Generic[S]):
    """The items of one request; the first of them is the `start`-th of all.

    items: each is the item as it is sent, once it is called; it may raise
    """

    start: int
    items: list[Callable[[], S]]


def encoded_ahead(
    items: Iterable[T],
    encode: Callable[[int, T], S],
    pool: ThreadPoolExecutor,
    stop: threading.Event,
    together: int = 1,
) -> Iterator[Callable[[], S]]:
    """Each item encoded in a thread, or in work; only a few are held that wait for it.

    encode:   of position and item
    stop:     once set, no further item is pulled
    together: items that a thread takes at once; handing them over one by one costs as much as a small image
    """
    room = threading.Semaphore(2 * ENCODERS)
    source = enumerate(items)
    while not stop.is_set() and (part := list(islice(source, together))):
        room.acquire()
        future = pool.submit(lambda part: [encode(*each) for each in part], part)
        future.add_done_callback(lambda _: room.release())
        for place in range(len(part)):
            yield partial(_item_of, future, place)


def _item_of(encoded: Future[list[S]], place: int) -> S:
    return encoded.result()[place]


def lots(items: Iterable[Callable[[], S]], size: int) -> Iterator[Lot[S]]:
    """The items in lots of `size`, the last one smaller."""
    start, held = 0, []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield Lot(start, held)
            start, held = start + size, []
    if held:
        yield Lot(start, held)


def ask_all(
    wanted: Iterable[Lot[S]], ask: Callable[[Lot[S]], None], concurrency: int, stop: threading.Event
) -> None:
    """Calls `ask` with each lot, in `concurrency` threads; lots are pulled as threads become free.

    stop: is set when `ask` or the iterable raises, or on Ctrl-C: nothing new is asked then, what is in flight
          is waited for, and the first error is raised
    """

    def guarded(lot: Lot[S]) -> None:
        if stop.is_set():
            return
        try:
            ask(lot)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(concurrency, thread_name_prefix="vendor") as senders:
        pending: set[Future[None]] = set()
        try:
            for lot in wanted:
                pending.add(senders.submit(guarded, lot))
                while len(pending) >= AHEAD * concurrency:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    _raise_first(done)
            _raise_first(wait(pending, return_when=FIRST_EXCEPTION).done)
        except BaseException:
            stop.set()
            raise


def _raise_first(done: Iterable[Future[None]]) -> None:
    for future in done:
        future.result()
