"""Commands of the CLI in forked children of this process, which has imported what they need."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ORPHAN_S = 5.0


def start(words: Sequence[str], folder: Path) -> int:
    """The process that runs the command in that folder, in a session of its own."""
    gc.freeze()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ["VL2V_DEPLOY_CACHE"] = str(folder / "cache")
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, log, log)):
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "rw"[n > 0], closefd=False) for n in range(3))
        sys.argv = ["vl2v-deploy", *words]
        from vl2v_deploy.__main__ import main as command_line

        try:
            command_line()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def wait(child: int, limit_s: float) -> int | None:
    """The status of a child, negative for the signal that ended it; None where it was killed at the limit."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def any_left(session: int) -> bool:
    """Whether a process of that session is still there after a while; those that are get killed."""
    ends = time.monotonic() + ORPHAN_S
    while left := _processes(session):
        if time.monotonic() > ends:
            for process in left:
                os.kill(process, signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False


def _processes(session: int) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state, _, _, of_session = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):  # it has just ended
                continue
            if int(of_session) == session and state != "Z":
                found.append(int(place.name))
    return found


def log(folder: Path) -> str:
    return (folder / "log").read_text(encoding="utf-8", errors="replace")
