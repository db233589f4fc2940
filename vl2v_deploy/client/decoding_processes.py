"""Images decoded by other processes, each of which is killed when one image takes it too long.

The processes are started when they are needed, kept for the next image, and belong to this Python process as
a whole: at most one for each core that it may use. They end with it, however it ends. A decoder that crashes
takes its own process along, and its image is refused.
"""

from __future__ import annotations

import atexit
import json
import os
import threading

from vl2v_deploy.client.decoding_process import DecodingProcess
from vl2v_deploy.client.images import Limits, Pixels
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import ImageError


def decode_in_time(encoded: bytes, limits: Limits, *, least_px: int | None, size_px: int | None) -> Pixels:
    """The image upright, opaque and RGB; uint8 (H, W, 3), squashed to (S, S, 3) with a size.

    least_px: as of `open_rgb`
    size_px:  S, the side of the square in pixels; None = as large as it is

    Raises ImageError, which does not name the image, when it cannot be used or is not decoded by
    `limits.decode_deadline_s`; DecodingError when no process can be started.
    """
    deadline_s = limits.decode_deadline_s
    assert deadline_s is not None
    question = {
        "max_pixels": limits.max_pixels,
        "max_bytes": limits.max_bytes,
        "formats": limits.formats,
        "trusted": limits.trusted,
        "least_px": least_px,
        "size_px": size_px,
        "deadline_s": deadline_s,
    }
    pool = _POOL
    with pool.places:
        process = pool.take()
        try:
            answer = process.ask(json.dumps(question).encode(), encoded, deadline_s)
        except BaseException:
            pool.end(process)
            raise
        if process.usable:
            pool.keep(process)
        else:
            pool.end(process)
    if isinstance(answer, str):
        raise ImageError(answer.removeprefix(f"<{len(encoded)} bytes>: "))
    return answer


def start_decoding_processes() -> None:
    """Starts all processes now, so that no image waits for it; raises DecodingError when one cannot be."""
    _POOL.start()


class _Pool:
    """The processes; safe to share between threads.

    count:  processes, at most
    places: as many as may decode at once
    idle:   those that wait for an image
    busy:   those that are started or decode
    """

    def __init__(self) -> None:
        self.count = default_threads().count
        self.places = threading.BoundedSemaphore(self.count)
        self.lock = threading.Lock()  # guards both kinds
        self.idle: list[DecodingProcess] = []
        self.busy: set[DecodingProcess] = set()

    def start(self) -> None:
        """Start those that are missing, all at once."""
        with self.lock:
            missing = self.count - len(self.idle) - len(self.busy)
        started = []
        try:
            for _ in range(missing):
                started.append(self._new())
            for process in started:
                process.wait_until_ready()
        except BaseException:
            for process in started:
                self.end(process)
            raise
        for process in started:
            self.keep(process)

    def take(self) -> DecodingProcess:
        """One that is ready, and busy from now on."""
        with self.lock:
            while self.idle:
                process = self.idle.pop()
                if process.is_alive():
                    self.busy.add(process)
                    return process
                process.let_go()  # something ended it while it waited: no fault of the next image
        process = self._new()
        try:
            process.wait_until_ready()
        except BaseException:
            self.end(process)
            raise
        return process

    def _new(self) -> DecodingProcess:
        process = DecodingProcess()
        with self.lock:
            self.busy.add(process)
        return process

    def keep(self, process: DecodingProcess) -> None:
        """It waits for the next image."""
        with self.lock:
            self.busy.discard(process)
            if len(self.idle) < self.count:
                self.idle.append(process)
                return
        process.end()

    def end(self, process: DecodingProcess) -> None:
        """Kill one that is busy."""
        with self.lock:
            self.busy.discard(process)
        process.end()

    def end_idle(self) -> None:
        """Kill those that wait."""
        with self.lock:
            idle, self.idle = self.idle, []
        for process in idle:
            process.end()


_POOL = _Pool()
atexit.register(lambda: _POOL.end_idle())


def _start_anew() -> None:
    """After a fork: the processes are the parent's, and see its end only once no child holds their pipes."""
    global _POOL
    for process in (*_POOL.idle, *_POOL.busy):  # without the lock, which a thread of the parent may hold
        process.forget()
    _POOL = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
