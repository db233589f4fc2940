"""asked.jsonl: how many embeddings were asked for, and how many of them sent to the teacher."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.ledger.booking import booked_on, is_on
from vl2v_deploy.models.store.disk import on_disk

LOG = "asked.jsonl"


def log_asked(folder: Path, *, hits: int, misses: int) -> None:
    """Adds a line to the log of a teacher's folder; DiskRefusal where that cannot be done."""
    line: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "hits": hits}
    line |= {"misses": misses, "run": booked_on()}
    with on_disk(folder / LOG), (folder / LOG).open("a+b", buffering=0) as file:
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"  # by a process that was killed: it is ended, and this one is whole
        # One write in append mode: lines of several processes do not mix.
        content = b"\n" * torn + json.dumps(line).encode() + b"\n"
        if file.write(content) != len(content):
            raise OSError("the line was cut short")


def read_asked(folder: Path) -> tuple[int, int]:
    """Hits and misses so far; 0 for a store that is older than the log. Torn lines count for nothing.

    Raises ModelError for a line that is whole and says something else.
    """
    hits = misses = 0
    for entry_hits, entry_misses, _ in _entries(folder / LOG):
        hits, misses = hits + entry_hits, misses + entry_misses
    return hits, misses


def sent_for(folder: Path, bill: str) -> int:
    """How many images were sent to the teacher for a bill; the same errors."""
    return sum(misses for _, misses, run in _entries(folder / LOG) if is_on(run, bill))


def _entries(log: Path) -> Iterator[tuple[int, int, str]]:
    """Hits, misses and what they are booked on, of each line that is whole."""
    if not log.is_file():
        return
    for number, line in enumerate(log.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        try:
            yield int(entry["hits"]), int(entry["misses"]), str(entry.get("run", ""))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{log}: line {number}: is damaged ({error}); delete that line") from error
