"""A circuit breaker: a teacher that failed is left alone for a while, then tried once."""

from __future__ import annotations

from threading import Lock


class Breaker:
    """Opened by a failure, closed by a success; while it is open one call is let through every interval.

    Threads may share it. Times are seconds of any clock that does not go back.
    """

    def __init__(self, min_interval_s: float) -> None:
        self.min_interval_s = min_interval_s
        self._lock = Lock()
        self._next_try_s: float | None = None  # None = closed

    def is_open(self, now_s: float) -> bool:
        """Whether a call would be refused now; takes no try."""
        with self._lock:
            return self._next_try_s is not None and now_s < self._next_try_s

    def allows(self, now_s: float) -> bool:
        """Whether a call may go out now; while the breaker is open, this takes the one try."""
        with self._lock:
            if self._next_try_s is None:
                return True
            if now_s < self._next_try_s:
                return False
            self._next_try_s = now_s + self.min_interval_s
            return True

    def failed(self, now_s: float) -> None:
        """A call failed, or took too long."""
        with self._lock:
            self._next_try_s = now_s + self.min_interval_s

    def succeeded(self) -> None:
        """A call was answered in time."""
        with self._lock:
            self._next_try_s = None
