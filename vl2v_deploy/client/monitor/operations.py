"""What an operator counts beside drift: answers, errors, latency and batches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter

from vl2v_deploy.errors import VL2VError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass
class Histogram:
    """How many values are at most each of the limits.

    counts: of values in each interval that ends at a limit, and above the last one
    """

    limits: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.limits) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.limits, value)] += 1
        self.total += value


@dataclass(frozen=True)
class OperationsNow:
    """What was counted until one moment. errors: by the name of the exception."""

    predictions: int
    abstained: int
    errors: dict[str, int]
    seconds: Histogram
    batches: Histogram


class Operations:
    """Counters of one student; any thread may count."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._predictions = self._abstained = 0
        self._errors: dict[str, int] = {}
        self._seconds, self._batches = Histogram(SECONDS), Histogram(IMAGES)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time what is done inside; an exception that leaves it is counted by its name and not timed."""
        started = perf_counter()
        try:
            yield
        except Exception as error:
            self.count_error(error)
            raise
        with self._lock:
            self._seconds.add(perf_counter() - started)

    def count_error(self, error: Exception) -> None:
        """Count a failed request: by name of an error of this package, else as "other"."""
        name = type(error).__name__ if isinstance(error, VL2VError) else "other"
        with self._lock:
            self._errors[name] = self._errors.get(name, 0) + 1

    def count_answers(self, predictions: int, abstained: int) -> None:
        with self._lock:
            self._predictions += predictions
            self._abstained += abstained

    def count_batch(self, images: int) -> None:
        with self._lock:
            self._batches.add(images)

    def now(self) -> OperationsNow:
        """A copy that counts no further."""
        with self._lock:
            return OperationsNow(
                self._predictions,
                self._abstained,
                dict(self._errors),
                Histogram(SECONDS, list(self._seconds.counts), self._seconds.total),
                Histogram(IMAGES, list(self._batches.counts), self._batches.total),
            )
