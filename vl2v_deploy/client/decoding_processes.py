"""Images decoded by other processes, each of which is killed when one image takes it too long.

The processes are started when they are needed, kept for the next image, and belong to this Python process as
a whole: at most one for each core that it may use. They end with it, however it ends. A decoder that crashes
takes its own process along, and its image is refused.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np

from vl2v_deploy.client.images import Limits, Pixels
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import DecodingError, ImageError

# to the process: the question as JSON, then the image; from it: whether it was decoded, width, height, and
# then the pixels or what is wrong
QUESTION = struct.Struct("<IQ")  # bytes of the JSON and of the image
ANSWER = struct.Struct("<?IIQ")
READY = b"R"
START_S = 60.0  # a machine under load is slow to start Python
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from vl2v_deploy.client.decoding_worker import answer_questions; answer_questions()"
)


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
            process.end()
            raise
        if process.usable:
            pool.keep(process)
        else:
            process.end()
    if isinstance(answer, str):
        raise ImageError(answer.removeprefix(f"<{len(encoded)} bytes>: "))
    return answer


def start_decoding_processes() -> None:
    """Starts all processes now, so that no image waits for it; raises DecodingError when one cannot be."""
    with _POOL.lock:
        missing = _POOL.count - len(_POOL.idle)
    for process in [_Process() for _ in range(missing)]:
        _POOL.keep(process)


class _Process:
    """A Python process that decodes one image after the other."""

    def __init__(self) -> None:
        self.usable = True
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _PROGRAM, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise _cannot_start(str(error)) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        with _Deadline(self._process, START_S):
            ready = self._answers.read(len(READY))
        if ready != READY:
            self.end()
            raise _cannot_start(f"it ended with {self._process.returncode}")

    def ask(self, question: bytes, encoded: bytes, deadline_s: float) -> Pixels | str:
        """The pixels, or why there are none; not `usable` after a deadline or a crash."""
        with _Deadline(self._process, deadline_s) as deadline:
            answer = self._exchange(question, encoded)
        if deadline.passed or answer is None:
            self.usable = False
        if answer is not None:
            return answer
        if deadline.passed:
            return f"took longer than {deadline_s:g} s to decode: refused (Limits.decode_deadline_s)"
        return f"its decoder crashed{_how(self._process.wait())}: refused"

    def _exchange(self, question: bytes, encoded: bytes) -> Pixels | str | None:
        """None where the process ended before it had answered."""
        try:
            self._questions.write(QUESTION.pack(len(question), len(encoded)) + question)
            self._questions.write(encoded)
            self._questions.flush()
        except OSError:
            return None
        head = self._answers.read(ANSWER.size)
        if len(head) < ANSWER.size:
            return None
        decoded, width, height, length = ANSWER.unpack(head)
        content = self._answers.read(length)
        if len(content) < length:
            return None
        if not decoded:
            return content.decode("utf-8", "backslashreplace")
        return np.frombuffer(content, np.uint8).reshape(height, width, 3)

    def is_alive(self) -> bool:
        """Whether it still waits for an image."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self.let_go()

    def let_go(self) -> None:
        """Close this end of its pipes."""
        for pipe in (self._questions, self._answers):
            with suppress(OSError):  # what it did not read cannot be flushed
                pipe.close()


class _Deadline:
    """Kills a process after so many seconds, unless its block is left before.

    passed: whether it was killed
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.passed = False
        self._process, self._timer = process, threading.Timer(seconds, self._kill)
        self._timer.daemon = True

    def _kill(self) -> None:
        self.passed = True
        self._process.kill()

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # it may be killing just now


class _Pool:
    """The processes that wait for an image; safe to share between threads.

    count:  processes, at most
    places: as many as may decode at once
    """

    def __init__(self) -> None:
        self.count = default_threads().count
        self.places = threading.BoundedSemaphore(self.count)
        self.lock = threading.Lock()  # guards the idle ones
        self.idle: list[_Process] = []

    def take(self) -> _Process:
        with self.lock:
            while self.idle:
                process = self.idle.pop()
                if process.is_alive():
                    return process
                process.let_go()  # something ended it while it waited: no fault of the next image
        return _Process()

    def keep(self, process: _Process) -> None:
        with self.lock:
            if len(self.idle) < self.count:
                self.idle.append(process)
                return
        process.end()

    def end(self) -> None:
        """End those that wait."""
        with self.lock:
            idle, self.idle = self.idle, []
        for process in idle:
            process.end()

    def let_go(self) -> None:
        for process in self.idle:
            process.let_go()


_POOL = _Pool()
atexit.register(lambda: _POOL.end())


def _start_anew() -> None:
    """After a fork: the processes are the parent's, and see its end only once no child holds their pipes."""
    global _POOL
    _POOL.let_go()
    _POOL = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def _cannot_start(why: str) -> DecodingError:
    return DecodingError(
        f"{sys.executable or 'Python'}: cannot be started to decode images: {why}; Limits.decode_deadline_s "
        "needs a Python that can be, without it images are decoded in this process"
    )


def _how(code: int) -> str:
    """The name of the signal that ended a process, for a message."""
    try:
        return f" ({signal.Signals(-code).name})"
    except ValueError:
        return f" (exit code {code})"
