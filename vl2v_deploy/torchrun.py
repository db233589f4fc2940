"""What torchrun tells each of the processes that it starts; without it there is one, which is the first."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes there are together, on all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the one that speaks, and writes files."""
    return process_count() == 1 or os.environ.get("RANK", "0") == "0"


def is_started_by_torchrun() -> bool:
    """Whether an agent of torchrun is this process's parent; the variables above may come from elsewhere."""
    return "TORCHELASTIC_RUN_ID" in os.environ
