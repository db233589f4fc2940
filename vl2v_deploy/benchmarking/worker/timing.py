"""The clock: calls of one engine one after the other, from several threads at once, or as images arrive."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, Lock
from time import perf_counter, sleep
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# Warm-up ends when the fastest of the last three calls is not a tenth faster than the fastest before them: a
# busy machine disturbs the fastest call least, and an engine that is slowed down for a while is still warm.
LAST, FASTER = 3, 0.9
MOST_WARM_UP, LEAST_WARM_UP = 100, 2

Call: TypeAlias = Callable[[int, int], object]  # of the call's number and the stream's


class Pool:
    """Threads that are kept from one request to the next; with one stream, the calling thread works."""

    def __init__(self) -> None:
        self._executors: dict[int, ThreadPoolExecutor] = {}

    def run(self, work: Callable[[int], None], streams: int) -> None:
        """work(stream) in as many threads at once; returns when all are done, raises what one raised."""
        if streams == 1:
            work(0)
            return
        if streams not in self._executors:
            self._executors[streams] = ThreadPoolExecutor(streams)
        together = Barrier(streams)  # no stream begins before all threads are there

        def begin(stream: int) -> None:
            together.wait()
            work(stream)

        list(self._executors[streams].map(begin, range(streams)))


def time_calls(pool: Pool, call: Call, n: int, streams: int) -> tuple[list[float], float]:
    """Seconds of each of n calls, and from the first start to the last end; a free stream takes the next."""
    return _time(pool, call, streams, n, lambda _: False)


def keep_busy(
    pool: Pool, call: Call, streams: int, seconds: float, most: int | None = None
) -> tuple[list[float], float]:
    """As `time_calls`, but calls begin until `seconds` have passed or `most` have begun."""
    until = perf_counter() + seconds
    return _time(pool, call, streams, most, lambda now: now >= until)


def warm_up(pool: Pool, call: Call, streams: int, limit_s: float) -> tuple[list[float], bool]:
    """Seconds of calls until they are steady, and whether they became steady before the limits.

    limit_s: ends warm-up, though not before two calls

    With several streams a sample is the mean of the streams' calls.
    """
    samples: list[float] = []
    start = perf_counter()
    while not is_steady(samples):
        enough = len(samples) >= LEAST_WARM_UP and perf_counter() - start >= limit_s
        if enough or len(samples) >= MOST_WARM_UP:
            return samples, False
        taken, _ = time_calls(pool, call, streams, streams)
        samples.append(sum(taken) / len(taken))
    return samples, True


def is_steady(samples_s: Sequence[float]) -> bool:
    """Whether the last three calls were not faster than those before them.

    >>> is_steady([0.9, 0.2, 0.1, 0.1]), is_steady([0.9, 0.1, 0.1, 0.11, 0.1])
    (False, True)
    """
    before, last = samples_s[:-LAST], samples_s[-LAST:]
    return bool(before) and min(last) >= FASTER * min(before)


def _time(
    pool: Pool, call: Call, streams: int, most: int | None, is_over: Callable[[float], bool]
) -> tuple[list[float], float]:
    numbers = itertools.count()  # its next() is atomic: no number comes twice
    spans: list[tuple[int, float, float]] = []

    def work(stream: int) -> None:
        first = True
        while first or not is_over(perf_counter()):
            first = False
            number = next(numbers)
            if most is not None and number >= most:
                return
            start = perf_counter()
            call(number, stream)
            spans.append((number, start, perf_counter()))

    pool.run(work, streams)
    spans.sort()
    wall_s = max(end for _, _, end in spans) - min(start for _, start, _ in spans)
    return [end - start for _, start, end in spans], wall_s


@dataclass(frozen=True)
class Arrivals:
    """Poisson arrivals at one rate, whether the engine is ready for them or not.

    Latency counts from the planned arrival, not from when the engine took the image up, so that an engine
    that falls behind shows the delay its callers see (no coordinated omission; Tene).

    streams:     images processed at once
    limit_s:     from the start; arrivals not taken up by then are dropped
    bound_s:     latency over which an answer is late
    may_be_late: how many answers may be late; with one more the rate is not held and the rest is dropped
    """

    rate_per_s: float
    arrivals: int
    seed: int
    streams: int
    limit_s: float
    bound_s: float
    may_be_late: int


def arrival_times_s(rate_per_s: float, arrivals: int, seed: int) -> npt.NDArray[np.float64]:
    """(arrivals,) seconds from the start to each arrival of a Poisson process.

    >>> times = arrival_times_s(100.0, 10_000, seed=0)
    >>> bool(95 < 10_000 / times[-1] < 105)
    True
    """
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate_per_s, arrivals))


def serve_arrivals(pool: Pool, call: Call, asked: Arrivals) -> list[float]:
    """Seconds from planned arrival to label of each answered arrival, in order of arrival."""
    planned = arrival_times_s(asked.rate_per_s, asked.arrivals, asked.seed)  # (arrivals,)
    numbers = itertools.count()
    answered: dict[int, float] = {}
    late, lock = 0, Lock()
    start = perf_counter()

    def work(stream: int) -> None:
        nonlocal late
        while (number := next(numbers)) < asked.arrivals:
            wait_s = start + planned[number] - perf_counter()
            if wait_s > 0:
                sleep(wait_s)
            if late > asked.may_be_late or perf_counter() - start > asked.limit_s:
                return
            call(number, stream)
            latency_s = perf_counter() - start - float(planned[number])
            with lock:
                answered[number] = latency_s
                late += latency_s > asked.bound_s

    pool.run(work, asked.streams)
    return [answered[number] for number in sorted(answered)]
