"""Commands as processes of this machine, several at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import RunError
from vl2v_deploy.launching.plan import RunCommand
from vl2v_deploy.names import listed, shown
from vl2v_deploy.signals import end_with_parent

_POLL_S = 0.1
_END_S = 60.0  # that a process may take to keep what it has; then it is killed

Running = dict[RunCommand, subprocess.Popen[bytes]]


def run_here(
    commands: Sequence[RunCommand],
    jobs: int,
    logs: Path,
    say: Callable[[str], None],
    running: Running | None = None,
) -> None:
    """Run all commands, at most `jobs` at once; a failed one does not stop the others.

    Each process has its share of the threads, unless OMP_NUM_THREADS says how many, and a log in `logs`.
    What ends this call early, such as a signal, first ends the processes with SIGTERM and waits for them.

    say:     told a line when a run begins and when it ends
    running: where the processes are noted while they run, for whoever ends them from a signal handler

    Raises RunError with the names of all that failed.
    """
    running = {} if running is None else running
    logs.mkdir(parents=True, exist_ok=True)
    jobs = max(1, min(jobs, len(commands)))
    environment = os.environ | _threads(jobs)
    waiting, failed, ended = list(commands), [], 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                command = waiting.pop(0)
                running[command] = _start(command, _log(command, logs), environment)
                say(f"{shown(command.name)}: started")
            time.sleep(_POLL_S)
            for command, process in [*running.items()]:
                code = process.poll()
                if code is None:
                    continue
                del running[command]
                ended += 1
                how = "finished" if code == 0 else f"failed: {_why(code, _log(command, logs))}"
                say(f"{ended}/{len(commands)} {shown(command.name)}: {how}")
                failed += [command.name] if code else []
    finally:
        end_all(running)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(commands)} runs failed: {listed(failed, 20)}; their logs are in {logs}. "
            "The others are kept: give the command again to run those that are missing"
        )


def end_all(running: Running) -> None:
    """End the processes in order: each keeps what it has; one that does not end is killed."""
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + _END_S
    for process in running.values():
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    running.clear()


def _start(command: RunCommand, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "vl2v_deploy", *command.words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            preexec_fn=_of_a_job,
        )


def _of_a_job() -> None:
    """In a new process: ended when its parent is; a scheduler's warning is its parent's to act on."""
    end_with_parent()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _threads(jobs: int) -> dict[str, str]:
    if os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, default_threads().count // jobs))}


def _log(command: RunCommand, logs: Path) -> Path:
    return logs / f"{command.name.replace('/', '__')}.log"


def _why(code: int, log: Path) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("Error: ")] or lines or [f"exit code {code}"]
    return shown(said[-1].removeprefix("Error: "))
