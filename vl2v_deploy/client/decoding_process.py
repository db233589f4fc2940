"""One process that decodes images, and is killed when one takes it too long."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from vl2v_deploy.client.images import Pixels
from vl2v_deploy.errors import DecodingError, one_line
from vl2v_deploy.names import shown

# to the process: the question as JSON, then the image; from it: whether it was decoded, width, height, and
# then the pixels or what is wrong
QUESTION = struct.Struct("<IQ")  # bytes of the JSON and of the image
ANSWER = struct.Struct("<?IIQ")
READY = b"R"
START_S = 60.0  # a machine under load is slow to start Python
_LONGEST_REASON = 300
# Says why it cannot begin instead of READY.
_PROGRAM = """
import sys
sys.path[:] = sys.argv[1:]
try:
    from vl2v_deploy.client.decoding_worker import answer_questions
except Exception as error:
    print("-", type(error).__name__ + ":", *str(error).split(), flush=True)
    sys.exit(1)
answer_questions()
"""


class DecodingProcess:
    """A Python process that decodes one image after the other."""

    def __init__(self) -> None:
        self.usable = True
        try:
            self._process = subprocess.Popen(
                [_interpreter(), "-W", "ignore", "-c", _PROGRAM, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in a name
            raise _cannot_start(one_line(error)) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def wait_until_ready(self) -> None:
        """Returns when it waits for an image; DecodingError, and it is gone, when it never will."""
        try:
            with _Deadline(self._process, START_S) as deadline:
                said = self._answers.read(len(READY))
                why = self._answers.read(_LONGEST_REASON) if said not in (READY, b"") else b""
        except BaseException:
            self.end()
            raise
        if said == READY:
            return
        self.end()
        reason = shown(why.decode("utf-8", "replace").strip()) or f"it ended{_how(self._process.returncode)}"
        raise _cannot_start(f"not ready after {START_S:g} s" if deadline.passed else reason)

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

    def forget(self) -> None:
        """In a forked child: give up the parent's pipes, whatever one of its threads was doing with them.

        Closing them would wait for that thread's lock, and could send once more what it has just sent.
        """
        self._process.returncode = 0  # not this process's to wait for
        with suppress(OSError), Path(os.devnull).open("r+b", buffering=0) as nothing:
            for pipe in (self._questions, self._answers):
                with suppress(ValueError):  # closed before
                    os.dup2(nothing.fileno(), pipe.fileno())


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


def _interpreter() -> str:
    """The Python that is started: multiprocessing's; DecodingError where that is no Python."""
    from multiprocessing import spawn

    named = spawn.get_executable()
    path = os.fsdecode(named) if named else ""
    if not path:
        raise _cannot_start("it is not known where it is: sys.executable is empty")
    if getattr(sys, "frozen", False) and path == sys.executable:  # it would start the application once more
        raise _cannot_start(f"{path} is a frozen application")
    return path


def _cannot_start(why: str) -> DecodingError:
    return DecodingError(
        f"no Python can be started to decode images: {why}; name one that has this application's packages by "
        "multiprocessing.set_executable, or decode in this process, without a deadline: "
        "Limits(decode_deadline_s=None)"
    )


def _how(code: int) -> str:
    """The name of the signal that ended a process, for a message."""
    try:
        return f" ({signal.Signals(-code).name})"
    except ValueError:
        return f" (exit code {code})"
