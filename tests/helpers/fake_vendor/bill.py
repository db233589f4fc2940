"""What the fake vendor would charge for: one line of JSON for each item, on disk before an answer is sent."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.helpers.fake_vendor.items import Item

BILL = "bill.jsonl"


class Billed(NamedTuple):
    """One item that was billed.

    request:  number of the request, from 1
    kind:     image or text
    sha256:   items.pixels_sha256 or items.text_sha256
    at:       time.time()
    answered: a whole, truthful answer was handed to a connection that was still open
    api:      which API was asked
    sent_bytes, format, metadata: of an image as it was sent
    """

    request: int
    kind: str
    sha256: str
    at: float
    answered: bool
    api: str
    sent_bytes: int
    format: str
    metadata: bool


class Bill:
    """Appends to the bill; many threads may."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._requests = max((item.request for item in read_bill(folder)), default=0)
        self._file = os.open(folder / BILL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def charge(self, api: str, items: Sequence[Item]) -> int:
        """Number of the request whose items are now on the bill."""
        with self._lock:
            self._requests += 1
            number = self._requests
        lines = [
            {
                "request": number,
                "kind": item.kind,
                "sha256": item.sha256,
                "at": time.time(),
                "api": api,
                "sent_bytes": item.sent_bytes,
                "format": item.format,
                "metadata": item.metadata,
            }
            for item in items
        ]
        self._append(lines)
        os.fsync(self._file)
        return number

    def answered(self, request: int) -> None:
        """Notes that the answer was handed to an open connection."""
        self._append([{"answered": request}])

    def _append(self, lines: Sequence[object]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with self._lock:
            os.write(self._file, text)


def read_bill(folder: Path) -> list[Billed]:
    """Every item that was billed, in order; [] before the first."""
    if not (folder / BILL).exists():
        return []
    lines = [json.loads(line) for line in (folder / BILL).read_text().splitlines()]
    answered = {line["answered"] for line in lines if "answered" in line}
    return [Billed(**line, answered=line["request"] in answered) for line in lines if "request" in line]
