"""Images that wait for the teacher, and the threads that ask it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import monotonic
from typing import Generic, TypeVar

from vl2v_deploy.errors import ClosedError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    future: Future[Answer] = field(default_factory=Future)


class TeacherQueue(Generic[Asked, Answer]):
    """Asks in threads of its own, several together; audits only when nobody waits for an answer.

    ask:          answers about several; what it raises is each future's exception
    threads:      calls of `ask` at once
    batch:        most in one call: as many as wait, nobody waits for others
    most_waiting: most that wait, audits and others each
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Asked]], Sequence[Answer]],
        *,
        threads: int,
        batch: int,
        most_waiting: int,
    ) -> None:
        self._ask, self._batch, self._most_waiting = ask, batch, most_waiting
        self._changed = Condition()  # guards everything below
        self._urgent: deque[_Waiting[Asked, Answer]] = deque()
        self._audits: deque[_Waiting[Asked, Answer]] = deque()
        self._busy_since_s: dict[int, float] = {}  # of threads that ask now
        self._closed = False
        # Daemons: a teacher that never returns must not keep Python from ending.
        self._threads = [
            Thread(target=self._run, args=(number,), name=f"vl2v-teacher-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, asked: Asked, *, audit: bool = False) -> Future[Answer] | None:
        """The future answer; None where too many wait, or after `close`."""
        waiting: _Waiting[Asked, Answer] = _Waiting(asked)
        with self._changed:
            line = self._audits if audit else self._urgent
            if self._closed or len(line) >= self._most_waiting:
                return None
            line.append(waiting)
            self._changed.notify()
        return waiting.future

    def is_stuck(self, longer_than_s: float) -> bool:
        """Whether every thread has been in one call for longer than that."""
        with self._changed:
            busy = self._busy_since_s.values()
            return len(busy) == len(self._threads) and max(busy) < monotonic() - longer_than_s

    def longest_call_s(self) -> float:
        """For how long the call of `ask` that began first has run; 0 where none runs."""
        with self._changed:
            busy = self._busy_since_s.values()
            return monotonic() - min(busy) if busy else 0.0

    @property
    def waiting(self) -> int:
        """Images that no thread has taken yet, audits among them."""
        with self._changed:
            return len(self._urgent) + len(self._audits)

    def close(self, timeout_s: float) -> None:
        """Drop audits that wait, ask about the others, and end the threads.

        A thread whose call has not returned after `timeout_s` is left behind: Python cannot end it.
        """
        with self._changed:
            self._closed = True
            dropped = list(self._audits)
            self._audits.clear()
            self._changed.notify_all()
        for waiting in dropped:
            waiting.future.cancel()
        until_s = monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - monotonic()))
        with self._changed:
            left = list(self._urgent)
            self._urgent.clear()
        for waiting in left:
            if waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(
                    ClosedError("this Cascade was closed before the teacher was asked")
                )

    def _run(self, number: int) -> None:
        while batch := self._next():
            with self._changed:
                self._busy_since_s[number] = monotonic()
            _answer(self._ask, batch)
            with self._changed:
                del self._busy_since_s[number]

    def _next(self) -> list[_Waiting[Asked, Answer]]:
        """Wait for images and take them; none when the queue is closed and empty."""
        with self._changed:
            while True:
                line = self._urgent or self._audits
                taken = [line.popleft() for _ in range(min(self._batch, len(line)))]
                batch = [one for one in taken if one.future.set_running_or_notify_cancel()]
                if batch or (self._closed and not line):
                    return batch
                if not taken:
                    self._changed.wait()


def _answer(
    ask: Callable[[Sequence[Asked]], Sequence[Answer]], batch: Sequence[_Waiting[Asked, Answer]]
) -> None:
    try:
        answers = ask([waiting.asked for waiting in batch])
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.future.set_result(answer)
    except BaseException as error:  # whatever: the thread must live on, or callers would wait in vain
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)
