"""On what queries are booked: the recipe, run or bundle that asks, and within a recipe which of its runs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

_BILL = "[0-9a-f]{32}"

_run = ""


@contextmanager
def billed_to(run: str) -> Iterator[None]:
    """Queries of this process, in all its threads, are booked on `run` until the block ends."""
    global _run
    before, _run = _run, run
    try:
        yield
    finally:
        _run = before


@contextmanager
def billed_to_bill(bill: str) -> Iterator[None]:
    """The same on a bill of its own within what they are booked on, so that it can be told what it paid."""
    with billed_to(f"{run_of(_run)}#{bill}"):
        yield


@contextmanager
def billed_to_all() -> Iterator[None]:
    """The same on no bill of one's own: what is asked serves whatever comes later, too."""
    with billed_to(run_of(_run)):
        yield


def booked_on() -> str:
    """On what queries are booked now."""
    return _run


def new_bill() -> str:
    """A bill that nothing is booked on yet."""
    return uuid.uuid4().hex


def is_bill(text: str) -> bool:
    """Whether `new_bill` could have made it."""
    return re.fullmatch(_BILL, text) is not None


def run_of(booked: str) -> str:
    """What is booked, without the bill.

    >>> run_of("pacs#0123456789abcdef0123456789abcdef"), run_of("pacs#2")
    ('pacs', 'pacs#2')
    """
    return re.sub(rf"#{_BILL}$", "", booked)


def is_on(booked: str, bill: str) -> bool:
    """Whether it is booked on this bill."""
    return booked.endswith(f"#{bill}")
