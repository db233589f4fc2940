"""What is tried to find a machine's peaks: matrix products and a copy, each a function that is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """A matrix product that is timed.

    kind:    type of its operands: fp32, fp16, int8
    library: and how it was called
    size:    M = K = N
    run:     does it once, and returns when the result is there
    """

    kind: str
    library: str
    size: int
    run: Callable[[], object]

    @property
    def flops(self) -> float:
        return 2.0 * self.size**3


@dataclass(frozen=True)
class Copy:
    """A copy that is timed: `run` reads and writes so many bytes each."""

    how: str
    size_bytes: int
    run: Callable[[], object]


def each_size(sizes: Iterable[int], *makers: Callable[[int], Iterator[Product]]) -> Iterator[Product]:
    """The products of all makers, size after size, so that one size's matrices are gone before the next's."""
    for size in sizes:
        for maker in makers:
            yield from maker(size)
