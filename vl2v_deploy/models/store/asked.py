"""asked.jsonl: how many embeddings were asked for, and how many of them sent to the teacher."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from vl2v_deploy.errors import ModelError

LOG = "asked.jsonl"


def log_asked(folder: Path, *, hits: int, misses: int) -> None:
    """Adds a line to the log of a teacher's folder."""
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "hits": hits, "misses": misses}
    with (folder / LOG).open("a+b", buffering=0) as file:
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"  # by a process that was killed: it is ended, and this one is whole
        # One write in append mode: lines of several processes do not mix.
        file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")


def read_asked(folder: Path) -> tuple[int, int]:
    """Hits and misses so far; 0 for a store that is older than the log. Torn lines count for nothing.

    Raises ModelError for a line that is whole and says something else.
    """
    log = folder / LOG
    if not log.is_file():
        return 0, 0
    hits = misses = 0
    for number, line in enumerate(log.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        try:
            hits, misses = hits + entry["hits"], misses + entry["misses"]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{log}: line {number}: is damaged ({error}); delete that line") from error
    return hits, misses
