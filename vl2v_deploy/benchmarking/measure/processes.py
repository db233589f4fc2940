"""The parent's side of a measured engine: its worker process is started, asked and ended here."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

from vl2v_deploy.errors import BenchmarkError

WORKER = (sys.executable, "-m", "vl2v_deploy.benchmarking.worker.process")
LAST_LINES = 3
EXIT_GRACE_S = 2.0
MEMORY = ("peak_rss_bytes", "gpu_memory_bytes")


@dataclass(frozen=True)
class EngineSpec:
    """An engine to measure.

    name:     what the report calls it
    settings: the worker's first line: engine, threads, images (paths), and what that engine needs
    command:  the worker; another one is how a new kind of engine, or a test's fake, is plugged in
    """

    name: str
    settings: Mapping[str, Any]
    command: tuple[str, ...] = WORKER


class EngineProcess:
    """A worker process that answers one JSON line with one JSON line; ended on leaving the context.

    `facts` is its first reply: load time, provider, threads, versions, peak memory.

    Raises BenchmarkError when it dies, stalls past the time limit, or reports an error of its own.
    """

    def __init__(self, spec: EngineSpec, timeout_s: float) -> None:
        self.name, self.facts = spec.name, dict[str, Any]()
        self._settings, self._timeout_s = spec.settings, timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a file, unlike a pipe, never fills up
        self._process = subprocess.Popen(
            spec.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=_worker_environment(int(spec.settings["threads"])),
            # Ctrl-C reaches the parent only, which then ends its workers in order.
            start_new_session=True,
        )
        # A thread that blocks on the pipe is the only portable way to wait for a line with a time limit.
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._reader = Thread(target=self._read_replies, daemon=True)
        self._reader.start()

    def __enter__(self) -> EngineProcess:
        try:
            self.facts = self.ask(self._settings, "loading")
        except BaseException:
            self._close(grace_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(grace_s=0.0 if kind else EXIT_GRACE_S)

    def ask(self, request: Mapping[str, Any], doing: str, expected_s: float = 0.0) -> dict[str, Any]:
        """The worker's reply to one request.

        doing:      for errors, such as 'loading'
        expected_s: how long the work itself should take; three times that is added to the time limit
        """
        limit_s = self._timeout_s + 3.0 * expected_s
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: reading, below, finds that out and says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        try:
            line = self._replies.get(timeout=limit_s)
        except queue.Empty:
            self._end(grace_s=0.0)
            raise BenchmarkError(
                f"engine {self.name!r} stalled while {doing}: no answer in {limit_s:.3g} s"
                f"{self._last_words()}; if it is only slow: --timeout, or smaller batches"
            ) from None
        if line is None:
            self._end(grace_s=EXIT_GRACE_S)
            raise BenchmarkError(
                f"engine {self.name!r} died while {doing}, exit status {self._process.returncode}"
                f"{self._last_words()}"
            )
        return self._parse(line, doing)

    def remember(self, reply: Mapping[str, Any]) -> None:
        """Put the memory in a reply into `facts`; both values are peaks, so the latest is the greatest."""
        for name in MEMORY:
            if reply.get(name) is not None:
                self.facts[name] = reply[name]

    def _parse(self, line: str, doing: str) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise BenchmarkError(
                f"engine {self.name!r} answered {line[:80]!r} while {doing}: expected one line of JSON"
            ) from error
        if "error" in reply:
            raise BenchmarkError(f"engine {self.name!r}: {reply['error']}")
        return reply

    def _read_replies(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put(None)

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        words = [line.strip() for line in lines if line.strip()][-LAST_LINES:]
        return f"; its last lines on stderr: {' | '.join(words)}" if words else "; it wrote nothing to stderr"

    def _end(self, grace_s: float) -> None:
        """Close stdin, which asks the worker to leave, and kill it when it has not within `grace_s`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            _kill(self._process)
            self._process.wait()
        self._reader.join()

    def _close(self, grace_s: float) -> None:
        self._end(grace_s)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the worker and what it started; it leads a session of its own."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _worker_environment(threads: int) -> dict[str, str]:
    """The parent's environment with thread counts fixed before any library reads them."""
    package_root = str(Path(__file__).resolve().parents[3])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # `python -m` would otherwise import from whatever folder the user stands in.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join([package_root, path] if path else [package_root]),
    }
