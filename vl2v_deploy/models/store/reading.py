"""Work on many image files in threads, handed over in parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

CORES = os.cpu_count() or 1
MOST_TOGETHER = 32


def map_in_parts(pool: ThreadPoolExecutor, work: Callable[[T], S], items: Sequence[T]) -> Iterator[S]:
    """`work` of each item, in their order; a thread takes several at once where there are more than cores.

    Handing items over one by one costs as much as reading a small image.
    """
    size = min(MOST_TOGETHER, max(1, len(items) // CORES))
    parts = (items[start : start + size] for start in range(0, len(items), size))
    for done in pool.map(lambda part: [work(item) for item in part], parts):
        yield from done
