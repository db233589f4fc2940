"""When requests may go out: as fast as a vendor allows, and not faster, for all processes of a key together.

Each limit is a token bucket, kept as the time at which it will be full again (GCRA, the virtual scheduling
algorithm of ITU-T I.371). A request is given its time to go as soon as it asks, so nothing is lost while
threads wake up.

Vendors count in fixed minutes, in sliding ones, or with buckets of their own. A bucket that refills at R a
minute and lets B more through passes R by B in a sliding minute, so this one refills slower: if k requests
fit into R, b = max(1, k // 120) of them may go at once, which is half a second's worth, and one more every
60.3 s / (k - b + 1). No 60 seconds then hold more than R, wherever a vendor starts to count, at 98.7 % or
more of the whole requests that fit into R. Only where sizes are mixed, such as a smaller last request, can a
minute hold one request more. The margin of 0.3 s, and a burst no longer than half a second, leave room for a
network that delivers unevenly.

An answer 429 sets a ceiling on requests, 0.7 of what was sent before, but not below a tenth of a known limit;
answers raise it by 1 % a second until it limits nothing. Where no limit is known this finds one.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vl2v_deploy.errors import ModelError, one_line

MINUTE_S = 60.3
BURSTS_A_MINUTE = 120
LOWERED, RAISED_A_SECOND = 0.7, 0.01
LOWEST_PART, LOWEST_A_MINUTE = 0.1, 6.0  # of a known limit; where none is known
LONGEST_PAUSE_S = 600.0
SAME_VOLLEY_S = 1.0  # requests that go out together are refused within so long
COUNTED_S = 30.0  # what was sent is counted over so long, and half of that
POLL_S = 0.001  # of the lock between processes, which is held for some microseconds
STATE_BYTES = 512


@dataclass
class _State:
    """What the processes of a key share; times are of the monotonic clock, which all processes read alike.

    booted_at:     when that clock started; another time means another clock, and times that say nothing
    requests_full_at, images_full_at: when each bucket will be full again
    paused_at, paused_until: no request goes out in between
    pauses:        how many there were: who was given a time before the last one asks again
    every_s:       between requests of the last size, as the limits allow; 0 = no limit is known
    ceiling:       requests a minute, as answers 429 taught; None = no ceiling
    raised_at:     when it was raised
    lowered_at:    when it was lowered
    sent, since:   requests, and from when they are counted
    last_at:       when the last request goes out
    """

    booted_at: float
    requests_full_at: float = 0.0
    images_full_at: float = 0.0
    paused_at: float = 0.0
    paused_until: float = 0.0
    pauses: int = 0
    every_s: float = 0.0
    ceiling: float | None = None
    raised_at: float = 0.0
    lowered_at: float = 0.0
    sent: float = 0.0
    since: float = 0.0
    last_at: float = 0.0


class Pacer:
    """The limits of a vendor, whose state in `file` all threads and processes with the same key share.

    requests_per_minute, images_per_minute: None = no limit is known

    Its methods raise ModelError when the file cannot be read or written.
    """

    def __init__(
        self, file: Path, *, requests_per_minute: float | None, images_per_minute: float | None
    ) -> None:
        self.file = file
        self.requests_per_minute, self.images_per_minute = requests_per_minute, images_per_minute
        self._has_folder = False
        self._has_ceiling = False  # as this process saw it last
        self._renew_locks()
        _pacers.add(self)

    def _renew_locks(self) -> None:
        self._threads = threading.Lock()
        self._processes = FileLock(f"{self.file}.lock", poll_interval=POLL_S, thread_local=False)

    def wait(self, images: int, stop: threading.Event | None = None) -> None:
        """Returns when a request with so many images, 0 for texts, may go out, or when `stop` is set."""
        while True:
            with self._state() as state:
                at, pauses = self._next(state, images), state.pauses
            if (wait_s := at - time.monotonic()) <= 0:
                return
            if (stop or threading.Event()).wait(wait_s):
                return
            with self._state() as state:
                if state.pauses == pauses:
                    return

    def pause(self, seconds: float) -> None:
        """No request goes out for so long, at most 10 minutes; those that wait already wait again."""
        with self._state() as state:
            now = time.monotonic()
            end = now + min(seconds, LONGEST_PAUSE_S)
            if end <= state.paused_until:
                return
            state.since += end - max(now, state.paused_until)  # a pause says nothing about the rate
            if now >= state.paused_until:
                state.paused_at = now
            # Times that waiting requests were given are void. The buckets start as if one request had gone.
            state.paused_until = state.requests_full_at = state.images_full_at = end
            state.pauses += 1

    def slow_down(self) -> None:
        """The vendor said that it is asked too much; counts once for requests that went out together."""
        with self._state() as state:
            now = time.monotonic()
            known = state.paused_at if now < state.paused_until else now  # nothing went out in the pause
            if state.lowered_at > known - SAME_VOLLEY_S:
                return
            sent = _sent_a_minute(state, now)
            lowest = LOWEST_PART * 60.0 / state.every_s if state.every_s else LOWEST_A_MINUTE
            state.ceiling = max(LOWERED * min(sent, state.ceiling or sent), lowest)
            state.raised_at, state.lowered_at = max(now, state.paused_until), now

    def speed_up(self) -> None:
        """The vendor answered."""
        if not self._has_ceiling:
            return
        with self._state() as state:
            if state.ceiling is None:
                return
            now = time.monotonic()
            state.ceiling *= 1 + RAISED_A_SECOND * min(max(now - state.raised_at, 0.0), 10.0)
            state.raised_at = max(now, state.raised_at)
            if state.ceiling > 2 * _sent_a_minute(state, now):  # for long something else has limited
                state.ceiling = None

    def _next(self, state: _State, images: int) -> float:
        """When a request that asks now goes out; it is counted."""
        every, burst = _spacing(self.requests_per_minute, 1)
        image_every, image_burst = _spacing(self.images_per_minute, images)
        state.every_s = max(every, image_every)
        if state.ceiling is not None and 60.0 / state.ceiling > every:
            every, burst = 60.0 / state.ceiling, 1
        at = max(
            time.monotonic(),
            state.paused_until,
            state.requests_full_at - (burst - 1) * every,
            state.images_full_at - (image_burst - 1) * image_every,
        )
        state.requests_full_at = max(state.requests_full_at, at) + every
        state.images_full_at = max(state.images_full_at, at) + image_every
        _count(state, at)
        return at

    @contextmanager
    def _state(self) -> Iterator[_State]:
        """The shared state, which nobody else reads or writes until the block ends; never synced to disk."""
        with self._threads:
            try:
                if not self._has_folder:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    self._has_folder = True
                with self._processes, os.fdopen(os.open(self.file, os.O_RDWR | os.O_CREAT), "r+b", 0) as file:
                    state = _state_of(file.read())
                    yield state
                    self._has_ceiling = state.ceiling is not None
                    file.seek(0)
                    file.write(json.dumps(vars(state)).encode().ljust(STATE_BYTES))  # whole in one write
            except OSError as error:
                raise ModelError(
                    f"{self.file}: the pace of requests cannot be kept there ({one_line(error)}); nothing "
                    "more is asked. Make room or permit writing there, and run again"
                ) from error


def _spacing(per_minute: float | None, size: int) -> tuple[float, int]:
    """Seconds between requests of a size, and how many may go at once; (0, 1) without a limit."""
    if per_minute is None or size == 0:
        return 0.0, 1
    fitting = int(per_minute / size)
    if fitting == 0:  # larger than what a minute allows
        return MINUTE_S * size / per_minute, 1
    burst = max(1, fitting // BURSTS_A_MINUTE)
    return MINUTE_S / (fitting - burst + 1), burst


def _state_of(content: bytes) -> _State:
    """The state as it was written; a new one at the start, after a restart, or for what is no state."""
    booted_at = time.time() - time.monotonic()
    try:
        state = _State(**json.loads(content))
        same_clock = abs(state.booted_at - booted_at) < 60.0
    except (ValueError, TypeError):
        return _State(booted_at)
    return state if same_clock else _State(booted_at, pauses=state.pauses + 1)


def _count(state: _State, at: float) -> None:
    if at - state.last_at > COUNTED_S / 3:
        state.sent, state.since = 0.0, at
    elif at - state.since > COUNTED_S:
        state.sent, state.since = state.sent / 2, (state.since + at) / 2
    state.sent += 1
    state.last_at = max(at, state.last_at)


def _sent_a_minute(state: _State, now: float) -> float:
    return 60.0 * max(state.sent, 1.0) / max(max(now, state.paused_until) - state.since, 0.1)


_pacers: weakref.WeakSet[Pacer] = weakref.WeakSet()


def _renew_in_child() -> None:
    for pacer in _pacers:
        pacer._renew_locks()  # another thread of the parent may have held them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)
