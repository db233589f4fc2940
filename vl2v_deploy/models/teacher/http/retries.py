"""What an answer that is none means: whether and when to ask again. Pure functions."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 8.0
LONGEST_WAIT_S = 120.0  # that a server may ask for
NO_ACCESS = frozenset((401, 402, 403))
PASSING = frozenset((408, 425, 429))
MONEY = re.compile(r"\b(credits?|balance|billing)\b", re.IGNORECASE)
QUOTA = re.compile(r"\bquotas?\b", re.IGNORECASE)

# stop: no request with this key will do; refused: this request will not do; wait: too many, all pause;
# again: it may do when it is sent again
Verdict = Literal["stop", "refused", "wait", "again"]


def verdict_of(status: int, headers: Mapping[str, str], text: str) -> Verdict:
    """What a status other than 200 asks for.

    headers: names in lower case
    text:    the body

    A 429 that speaks of a quota is about money, unless it says when to come again: some vendors call their
    rate limit so.
    """
    if status in NO_ACCESS:
        return "stop"
    if 400 <= status < 500:
        says_when = status == 429 and retry_after_s(headers) is not None
        if MONEY.search(text) or (QUOTA.search(text) and not says_when):
            return "stop"
    if status == 429:
        return "wait"
    return "again" if status in PASSING or status >= 500 else "refused"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: retry-after-ms, or Retry-After in seconds or as a date.

    None where it does not say, or says what cannot be read. A date is held against the server's own clock
    where it tells it.

    >>> retry_after_s({"retry-after-ms": "1500"}), retry_after_s({"retry-after": "soon"})
    (1.5, None)
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    if said is None or (until := _date(said)) is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def delay_s(attempt: int) -> float:
    """How long to wait after so many failures, from 0 on: doubling, with jitter."""
    whole = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempt, 16))
    return whole * random.uniform(0.75, 1.0)


def words_of(text: str) -> str:
    """The message in an error's body, in one line: that of the API's own form, else the whole body.

    >>> words_of('{"error": {"message": "no such model", "code": 404}}')
    'no such model'
    """
    found: Any = text
    with suppress(ValueError, RecursionError):
        found = _message(json.loads(text)) or text
    return " ".join("".join(c if c.isprintable() else " " for c in str(found)).split()) or "no words"


def _message(tree: Any) -> Any:
    """Follows error, message and detail down to a text; FastAPI's detail is a list of {loc, msg}."""
    if isinstance(tree, list) and tree:
        return _message(tree[0])
    if isinstance(tree, dict):
        inside = (tree.get(name) for name in ("error", "message", "detail", "msg"))
        return next((_message(found) for found in inside if found), None)
    return tree


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return max(0.0, found) if math.isfinite(found) else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
