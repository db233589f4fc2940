"""A program in another Python process: a package that crashes or hangs when it is imported ends only that."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE_ROOT = Path(__file__).parents[2]  # where a child finds vl2v_deploy, installed or not
LIMIT_S = 60.0  # torch from a cold disk, on a busy machine
_LONGEST = 300


@dataclass(frozen=True)
class Failed:
    """A child that gave no answer.

    why: in one line: how it ended, or what it said last
    """

    why: str


def answer_of(program: str, *, limit_s: float = LIMIT_S) -> dict[str, Any] | Failed:
    """What `program` prints in its last line, a JSON object; or why there is none.

    program: Python; it can import what this process can, but nothing from the current folder
    limit_s: after which it is killed
    """
    whole = f"import sys; sys.path.append({str(PACKAGE_ROOT)!r})\n{program}"
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", whole],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Failed(f"gave no answer in {limit_s:g} s and was ended")
    except OSError as error:
        return Failed(f"could not be started: {error}")
    if ran.returncode:
        return Failed(_ending(ran.returncode, ran.stderr))
    try:
        answer = json.loads(ran.stdout.strip().rpartition("\n")[2])
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else Failed("ended without an answer")


def _ending(code: int, stderr: str) -> str:
    """How a child ended that did not succeed, with the last line that it wrote to standard error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = lines[-1][:_LONGEST] if lines else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"crashed with {name}" + (f": {said}" if said else "")
    return said or f"ended with exit code {code}"
