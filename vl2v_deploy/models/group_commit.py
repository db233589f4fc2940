"""Group commit: what many threads want on disk is written and synced together.

A sync takes milliseconds, whatever it holds. While one group is being written, the calls that come wait, and
are the next group (DeWitt et al., Implementation Techniques for Main Memory Database Systems, 1984).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class GroupCommit(Generic[A, B]):
    """Calls `write` with the arguments of all threads that wait, one group at a time.

    write: of the arguments, at least one, in the order in which they came; the result of each. An exception
           that it returns as a result is raised in the thread of that call; one that it raises, in all
           threads of the group.
    """

    def __init__(self, write: Callable[[Sequence[A]], Sequence[B | Exception]]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._writing = False
        self._waiting: list[_Call[A, B]] = []

    def __call__(self, argument: A) -> B:
        """The result of this call, when its group is written."""
        call: _Call[A, B] = _Call(argument)
        with self._changed:
            self._waiting.append(call)
            while self._writing and not call.outcome:
                self._changed.wait()
            if not call.outcome:
                self._writing, group, self._waiting = True, self._waiting, []
        if not call.outcome:
            self._write_group(group)
        [outcome] = call.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _write_group(self, group: list[_Call[A, B]]) -> None:
        outcomes: Sequence[B | BaseException]
        try:
            outcomes = self._write([call.argument for call in group])
        except BaseException as error:
            outcomes = [error] * len(group)
        with self._changed:
            for call, outcome in zip(group, outcomes, strict=True):
                call.outcome.append(outcome)
            self._writing = False
            self._changed.notify_all()


class _Call(Generic[A, B]):
    def __init__(self, argument: A) -> None:
        self.argument = argument
        self.outcome: list[B | BaseException] = []  # one, when it is there
