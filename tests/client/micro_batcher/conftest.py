"""Callers of a MicroBatcher; and no test may leave one of its threads behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.micro_batching import our_threads


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert our_threads() == []
