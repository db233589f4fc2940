"""Images that arrive by a Poisson process, whether the engine is ready for them or not.

Latency counts from the planned arrival, not from when the engine took the image up, so that an engine that
falls behind shows the delay its callers see (no coordinated omission; Tene).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from threading import Lock
from time import perf_counter, sleep

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.worker.timing import Call, Pool


@dataclass(frozen=True)
class Arrivals:
    """Arrivals at one rate.

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
