"""The vendor itself: limits, faults, embeddings and the bill. It knows nothing of sockets."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from tests.helpers.fake_vendor.apis import Api, Reply, Rows
from tests.helpers.fake_vendor.bill import Bill
from tests.helpers.fake_vendor.items import BadRequest, Query
from tests.helpers.fake_vendor.settings import Cut, Distortion, Refusal, Settings
from tests.helpers.fake_vendor.vectors import image_embedding, rotated, text_embedding

REFUSALS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "the request was not understood"),
    "unauthorized": (401, "invalid api key provided"),
    "payment_required": (402, "payment required"),
    "forbidden": (403, "this key may not use this model"),
    "timeout": (408, "request timed out"),
    "rate_limited": (429, "rate limit reached, slow down"),
    "quota": (429, "You exceeded your current quota, please check your plan and billing details"),
    "low_credit": (400, "Your credit balance is too low to access the API"),
    "server_error": (500, "internal error"),
    "overloaded": (503, "the model is overloaded"),
}
assert set(REFUSALS) == set(get_args(Refusal))


class Refused(Exception):
    """An answer that is none: nothing is billed."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class Bucket:
    """Tokens of a limit; a request may take more than are there, and later ones wait for it."""

    def __init__(self) -> None:
        self._tokens, self._at, self._limit = 0.0, time.monotonic(), ""

    def wait_s(self, per_minute: float | None, burst_s: float, wanted: int) -> float:
        """Seconds until `wanted` would be allowed; 0 = now."""
        if per_minute is None:
            return 0.0
        most = max(per_minute / 60 * burst_s, 1.0)
        now = time.monotonic()
        if self._limit != (limit := f"{per_minute} {burst_s}"):
            self._tokens, self._limit = most, limit
        self._tokens = min(most, self._tokens + (now - self._at) * per_minute / 60)
        self._at = now
        return max(0.0, min(wanted, most) - self._tokens) * 60 / per_minute

    def take(self, tokens: int) -> None:
        self._tokens -= tokens


class Work(NamedTuple):
    """What is left to do with a request that was let in."""

    query: Query
    request: int
    fault: str


class Vendor:
    """Answers one request after another, from many threads."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.bill = Bill(folder)
        self._lock = threading.Lock()
        self._random = random.Random(settings.seed)
        self._requests, self._images = Bucket(), Bucket()
        self.counts = {"in_flight": 0, "requests": 0, "refused": 0, "rate_limited": 0}

    def control(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Settings and counts after `changes`; raises pydantic's ValidationError."""
        with self._lock:
            if changes:
                self.settings = Settings.model_validate(self.settings.model_dump() | changes)
                self._random = random.Random(self.settings.seed) if "seed" in changes else self._random
            return self.settings.model_dump() | self.counts

    def count(self, name: str, change: int = 1) -> None:
        with self._lock:
            self.counts[name] += change

    def admit(self, name: str, query: Query) -> Work | None:
        """Bills a request that passes faults and limits; None = the connection is to be cut before that.

        Raises Refused, BadRequest.
        """
        settings = self.settings
        if settings.model is not None and query.model not in (None, settings.model):
            raise BadRequest(404, f"model {query.model!r} does not exist")
        if query.dimensions not in (None, settings.dimensions):
            raise BadRequest(400, f"dimensions: {settings.dimensions} are offered, not {query.dimensions}")
        fault = self._fault()
        if fault in REFUSALS:
            raise Refused(*REFUSALS[fault], self._retry_after(1.0) if fault == "rate_limited" else {})
        self._limit(sum(item.kind == "image" for item in query.items))
        if fault == "cut_before":
            return None
        return Work(query, self.bill.charge(name, query.items), fault)

    def answer(self, api: Api, work: Work) -> Reply:
        """The answer to what was billed, distorted as the fault says; raises Refused for a late 500."""
        time.sleep(self.settings.latency_s + (self.settings.late_s if work.fault == "late" else 0.0))
        if work.fault == "server_error_billed":
            raise Refused(500, "internal error")
        rows = [self._embedding(item.content) for item in work.query.items]
        index = list(range(len(rows)))
        distorted = _distorted(rows, index, work.fault, api.has_index)
        reply = api.write(work.query, distorted, self.settings.model_version)
        if work.fault == "garbage":
            return Reply(b"<html><body>Welcome</body></html>", {"Content-Type": "text/html"})
        if work.fault == "truncated":
            return Reply(reply.body[: len(reply.body) // 2], reply.headers)
        return reply

    def _embedding(self, content: Any) -> np.ndarray:
        embed = text_embedding if isinstance(content, str) else image_embedding
        row = embed(content, self.settings.dimensions)
        return rotated(row, self.settings.moved) if self.settings.moved else row

    def _fault(self) -> str:
        with self._lock:
            if self.settings.script:
                first, *rest = self.settings.script
                self.settings = self.settings.model_copy(update={"script": rest})
                return first
            drawn = self._random.random()
            for fault, probability in self.settings.faults.items():
                drawn -= probability
                if drawn < 0:
                    return fault
        return "none"

    def _limit(self, images: int) -> None:
        settings = self.settings
        with self._lock:
            wait_s = max(
                self._requests.wait_s(settings.requests_per_minute, settings.burst_s, 1),
                self._images.wait_s(settings.images_per_minute, settings.burst_s, images),
            )
            if wait_s == 0.0:
                self._requests.take(1)
                self._images.take(images)
                return
            self.counts["rate_limited"] += 1
        raise Refused(*REFUSALS["rate_limited"], self._retry_after(wait_s))

    def _retry_after(self, true_s: float) -> dict[str, str]:
        wait_s = true_s if self.settings.retry_after_s is None else self.settings.retry_after_s
        match self.settings.retry_after:
            case "seconds":
                return {"Retry-After": f"{wait_s:.3f}".rstrip("0").rstrip(".")}
            case "date":  # whole seconds: the next one that is not too early
                return {"Retry-After": email.utils.formatdate(time.time() + wait_s + 1, usegmt=True)}
            case "ms":
                return {"retry-after-ms": f"{wait_s * 1000:.0f}"}
            case "none":
                return {}


def _distorted(rows: list[np.ndarray], index: list[int], fault: str, has_index: bool) -> Rows:
    match fault:
        case "shuffled" if has_index:
            return Rows(rows[::-1], index[::-1])
        case "swapped" if len(rows) > 1:
            return Rows([rows[1], rows[0], *rows[2:]], index)
        case "duplicate_index" if has_index:
            return Rows(rows, [*index[:-1], 0]) if len(rows) > 1 else Rows(rows * 2, [0, 0])
        case "missing_index" if has_index:
            return Rows(rows, [*index[:-1], len(rows)])
        case "wrong_count" | "duplicate_index" | "missing_index":
            return Rows(rows[:-1], index[:-1])
        case "nan":
            return Rows([np.append(np.float32("nan"), rows[0][1:]), *rows[1:]], index)
        case "zero":
            return Rows([np.zeros_like(rows[0]), *rows[1:]], index)
        case "other_dimension":
            return Rows([np.append(row, row) for row in rows], index)
    return Rows(rows, index)


TRUTHFUL = {"none", "shuffled", "late"}
assert TRUTHFUL - {"none"} <= {*get_args(Distortion), *get_args(Cut)}
