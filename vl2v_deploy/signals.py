"""SIGINT, SIGTERM and SIGHUP end a command in order: it keeps what it has, cleans up and exits 128 + n.

The first signal raises `Interrupted` in the main thread, as Ctrl-C raises KeyboardInterrupt; `postponed`
holds it back for as long as something must not stop halfway. Where Python drops exceptions, as in destructors
and callbacks of weak references, it is raised again. A second signal ends the process at once. Only the
command line installs this: an application that uses the package as a library keeps its own handlers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = tuple(
    int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# A signal that follows this soon is the first one, delivered twice: `timeout` and terminals signal a process
# and its group, and whoever started it passes theirs on.
SAME_S = 1.0
# After an `Interrupted` was dropped: the destructor that dropped it has ended by then.
AGAIN_S = 0.01
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


class Interrupted(KeyboardInterrupt):
    """A signal that asks the process to end.

    number: of the signal
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


@dataclass
class _Received:
    """What has arrived since handlers were installed.

    number:    of the first signal; None = none yet
    at:        when, by the monotonic clock
    raised:    whether `Interrupted` was raised for it, and not dropped
    postponed: how many `postponed` blocks the main thread is in
    terminals: standard output and error, where they were terminals at the start
    """

    number: int | None = None
    at: float = 0.0
    raised: bool = False
    postponed: int = 0
    terminals: list[int] = field(default_factory=list)


_received = _Received()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Signals raise `Interrupted` inside the block.

    A signal that is ignored (as SIGHUP under nohup) or has a handler stays as it is. In another thread than
    the main one nothing is installed, as Python cannot.
    """
    global _received
    ours = (signal.SIG_DFL, signal.default_int_handler)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) in ours]
    _received = _Received(terminals=[descriptor for descriptor in (1, 2) if _is_terminal(descriptor)])
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_end_on_second, args=(reader,), daemon=True, name="signals").start()
    waking = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _receive) for number in numbers}
    hook = sys.unraisablehook
    if sys.platform != "win32" and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _raise_again)
        sys.unraisablehook = partial(_dropped, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if sys.platform != "win32" and signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(waking)
        os.close(writer)
        _received = _Received()


@contextmanager
def postponed() -> Iterator[None]:
    """A signal that arrives in the block raises `Interrupted` at its end; a second one ends all the same.

    Does nothing in other threads than the main one, in which no signal raises.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.postponed += 1
    try:
        yield
    finally:
        _received.postponed -= 1
    if _received.number is not None and not _received.postponed:
        _raise_once(_received.number)


def received() -> int | None:
    """The number of the signal that has arrived, also where it is still postponed; None = none."""
    return _received.number


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the system send this process a signal when the thread that started it ends, on Linux.

    Elsewhere nothing: a child has to see the end of a pipe there.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def _receive(number: int, _: FrameType | None) -> None:
    if _received.number is None:
        _received.number, _received.at = number, time.monotonic()
        _leave_lost_terminals()
        if not _received.postponed:
            _raise_once(number)
    elif time.monotonic() - _received.at > SAME_S:
        _end_at_once(number)


def _raise_once(number: int) -> None:
    if not _received.raised:  # what cleans up may postpone signals, too
        _received.raised = True
        raise Interrupted(number)


def _dropped(otherwise: Callable[[Any], object], unraisable: Any) -> None:
    """Takes note of an exception that Python drops; what raises in here is dropped as well."""
    if isinstance(unraisable.exc_value, Interrupted):
        _received.raised = False
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        otherwise(unraisable)


def _raise_again(*_: object) -> None:
    if _received.number is not None and not _received.postponed:
        _raise_once(_received.number)


def _end_on_second(reader: int) -> None:
    """Ends the process on a second signal while the main thread is in a call that runs no handlers.

    The interpreter writes each signal's number into the pipe as soon as it arrives.
    """
    first = None
    with os.fdopen(reader, "rb", buffering=0) as arrived:
        while number := arrived.read(1):
            if signal.getsignal(number[0]) is not _receive:  # a server has taken over, for a while
                continue
            now = time.monotonic()
            first = now if first is None else first
            if now - first > SAME_S:
                _end_at_once(number[0])


def _end_at_once(number: int) -> None:
    os.write(2, f"\nEnded at once by a second {signal.Signals(number).name}.\n".encode())
    os._exit(128 + number)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:  # closed
        return False


def _leave_lost_terminals() -> None:
    """Writing to a terminal that was closed fails, which must not get in the way of cleaning up."""
    for descriptor in _received.terminals:
        if not _is_terminal(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
