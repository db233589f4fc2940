"""asked.jsonl: how many embeddings were asked for, and how many of them sent to the teacher."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
    line |= {"misses": misses, "run": booked_on(), "id": uuid.uuid4().hex}
    _append(folder, [line])


def merge_asked(folder: Path, into: Path) -> None:
    """Adds to the log of a teacher's folder the lines of another's that it does not have yet.

    A line is known by its id; of earlier versions, which wrote none, by its place and text.

    Raises what `read_asked` and `log_asked` raise.
    """
    read_asked(folder)
    known = {line["id"] for line in _named_lines(into / LOG)}
    new = [line for line in _named_lines(folder / LOG) if line["id"] not in known]
    if new:
        _append(into, new)


def _named_lines(log: Path) -> Iterator[dict[str, Any]]:
    """Each whole line, with an id."""
    for number, line in _lines(log):
        of_place = hashlib.sha256(f"{number} {json.dumps(line, sort_keys=True)}".encode()).hexdigest()
        yield {"id": of_place[:32]} | line


def _append(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    with on_disk(folder / LOG), (folder / LOG).open("a+b", buffering=0) as file:
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"  # by a process that was killed: it is ended, and this one is whole
        # One write in append mode: lines of several processes do not mix.
        content = b"\n" * torn + b"".join(json.dumps(line).encode() + b"\n" for line in lines)
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
    for number, entry in _lines(log):
        try:
            yield int(entry["hits"]), int(entry["misses"]), str(entry.get("run", ""))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{log}: line {number}: is damaged ({error}); delete that line") from error


def _lines(log: Path) -> Iterator[tuple[int, Any]]:
    """The number and content of each line that is whole."""
    if not log.is_file():
        return
    for number, line in enumerate(log.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        with suppress(ValueError):
            yield number, json.loads(line)
