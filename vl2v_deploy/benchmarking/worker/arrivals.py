"""Images that arrive by a Poisson process, whether the engine is ready for them or not.

Latency counts from the planned arrival, not from when the engine took the image up: an engine that falls
behind shows it, as people in its queue would see it (Tene: no coordinated omission).
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
class Trial:
    """One arrival rate that is tried.

    streams:     images in work at once
    limit_s:     from the start; arrivals not taken up by then are dropped
    bound_s:     latency over which an answer is late
    may_be_late: so many answers; with one more the rate is lost, and the rest is dropped to save time
    """

    rate_per_s: float
    arrivals: int
    seed: int
    streams: int
    limit_s: float
    bound_s: float
    may_be_late: int


@dataclass(frozen=True)
class Served:
    """What came of one arrival rate.

    samples_s: latency of each answered arrival, in the order of arrival
    dropped:   arrivals that were not answered
    """

    samples_s: list[float]
    dropped: int


def arrival_times_s(rate_per_s: float, arrivals: int, seed: int) -> npt.NDArray[np.float64]:
    """When each of them arrives, in seconds from the start: a Poisson process of that rate.

    >>> times = arrival_times_s(100.0, 10_000, seed=0)
    >>> bool(95 < 10_000 / times[-1] < 105)
    True
    """
    gaps = np.random.default_rng(seed).exponential(1.0 / rate_per_s, arrivals)
    return np.cumsum(gaps)


def serve_arrivals(pool: Pool, call: Call, trial: Trial) -> Served:
    """Latencies from planned arrival to label; the queue is first in, first out."""
    planned = arrival_times_s(trial.rate_per_s, trial.arrivals, trial.seed)  # (arrivals,)
    numbers = itertools.count()
    answered: dict[int, float] = {}
    late, lock = 0, Lock()
    start = perf_counter()

    def work(stream: int) -> None:
        nonlocal late
        while (number := next(numbers)) < trial.arrivals:
            wait_s = start + planned[number] - perf_counter()
            if wait_s > 0:
                sleep(wait_s)
            if late > trial.may_be_late or perf_counter() - start > trial.limit_s:
                return
            call(number, stream)
            latency_s = perf_counter() - start - float(planned[number])
            with lock:
                answered[number] = latency_s
                late += latency_s > trial.bound_s

    pool.run(work, trial.streams)
    return Served([answered[number] for number in sorted(answered)], trial.arrivals - len(answered))
