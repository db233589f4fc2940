"""The time that a benchmark may take as a whole, and what had to be left out to keep within it."""

from __future__ import annotations

import time
from collections.abc import Callable


class TimeBox:
    """Starts when it is made.

    limit_s:  of everything together; None = no limit
    clock:    seconds, only ever rising
    left_out: what was not measured, in words, in the order in which it was asked for
    """

    def __init__(self, limit_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._started = clock()
        self.left_out: list[str] = []

    def has_room(self, expected_s: float, what: str) -> bool:
        """Whether so many seconds are left; where they are not, `what` is noted as left out.

        >>> box = TimeBox(60, clock=iter([0.0, 10.0, 30.0]).__next__)
        >>> box.has_room(40, "offline"), box.has_room(40, "server"), box.left_out
        (True, False, ['server'])
        """
        if self.limit_s is None or self._clock() - self._started + expected_s <= self.limit_s:
            return True
        self.left_out.append(what)
        return False

    def note(self) -> str | None:
        """What a reader of the report must know; None where nothing was left out."""
        if not self.left_out:
            return None
        return (
            f"Left out, as the scenario allows {self.limit_s:g} s (limit_s): {', '.join(self.left_out)}. "
            "A higher limit_s, or none, measures them."
        )
