"""Whether a process that is nobody's child here still runs."""

from __future__ import annotations

import time
from pathlib import Path


def is_running(process: int) -> bool:
    """On Linux; one that has ended and waits to be collected does not run."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for_end(process: int, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while is_running(process):
        assert time.monotonic() < deadline, f"{process} still runs"
        time.sleep(0.02)
