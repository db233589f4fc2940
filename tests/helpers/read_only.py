"""Folders that must not be written, also for root, as whom tests may run."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION = 0x20080522  # of the calls, with 64 capabilities in two words each
_DAC_OVERRIDE = 1 << 1  # capabilities(7): writing whatever the mode says


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below `folder` can be written while the block runs, by this thread and those that it starts.

    Modes forbid it. Root passes over modes by a capability, which this thread lays down meanwhile.
    """
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in reversed(paths):
        path.chmod(modes[path] & 0o555)
    try:
        with _without_override():
            yield
    finally:
        for path in paths:
            path.chmod(modes[path])


@contextmanager
def _without_override() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)  # 0: this thread
    words = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    _call(libc.capget, header, words)
    before = words[0]
    words[0] = before & ~_DAC_OVERRIDE
    _call(libc.capset, header, words)
    try:
        yield
    finally:
        words[0] = before
        _call(libc.capset, header, words)


def _call(function: ctypes._CFuncPtr, *arguments: object) -> None:  # type: ignore[name-defined]
    if function(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
