"""A student of numbers with gates in it, and what tests of a MicroBatcher wait by."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from vl2v_deploy.client import MicroBatcher
from vl2v_deploy.errors import ImageError

PATIENCE_S = 60.0  # nothing waits this long unless something is broken
LONG_MS = 60_000.0


class Gate:
    """Whoever passes waits until it is opened; `reached` counts those that came."""

    def __init__(self, opened: bool = True) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.reached = 0
        if opened:
            self.open()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        with self._lock:
            self.reached += 1
        assert self._open.wait(PATIENCE_S), "the gate was never opened"


class NumberStudent:
    """Images are numbers, and so are the answers; a negative one is a bad image.

    batches: the numbers of each run
    """

    def __init__(self, run: Gate | None = None, decode: dict[int, Gate] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.decoded: list[int] = []
        self.fault: BaseException | None = None
        self._run, self._decode = run or Gate(), decode or {}

    def pixels(self, number: int) -> np.ndarray[Any, Any]:
        if number in self._decode:
            self._decode[number].pass_through()
        self.decoded.append(number)
        if number < 0:
            raise ImageError(f"{number}: is bad")
        return np.full((2, 2, 3), number, np.int64)

    def run(self, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], None]:
        self.batches.append(images[:, 0, 0, 0].tolist())
        self._run.pass_through()
        if self.fault:
            raise self.fault
        return images[:, 0, 0, :1] * 2, None

    def prediction_from_logits(self, row: np.ndarray[Any, Any], *, top: int, logits: bool) -> Any:
        return (int(row[0]) // 2, top, logits) if logits else int(row[0]) // 2


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vl2v-")]


def make(student: Any, **options: Any) -> MicroBatcher:
    return MicroBatcher(student, **options)


def until(reached: Callable[[], object]) -> None:
    """Return when it is true; for what no event tells."""
    end_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end_s, "never came true"
        time.sleep(0.001)


async def until_async(reached: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end_s, "never came true"
        await asyncio.sleep(0.001)


def run_loop(main: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await main

    return asyncio.run(limited())


def waiting(batcher: MicroBatcher) -> int:
    return len(batcher._waiting)


def answers(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(PATIENCE_S) for future in futures]
