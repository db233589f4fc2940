"""Part i of N of all items: for arrays of jobs, none of which knows of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

# Neighbours, which often lie together on the disk, stay in one part; and as many as the session runs at once:
# each image is in the same batch as in one run over all of them.
BLOCK = 32

Item = TypeVar("Item")


class Part(NamedTuple):
    """Part `number`, from 1, of `of`; every item is in just one of the parts."""

    number: int = 1
    of: int = 1


EVERYTHING = Part()


def part_from_text(text: str) -> Part:
    """The part that is written as i/N.

    Raises ValueError for what is none.

    >>> part_from_text("3/8")
    Part(number=3, of=8)
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError(f"{text!r}: expected i/N, i from 1 to N, such as 1/8")
    return Part(int(number), int(of))


def items_of_part(items: Iterable[Item], part: Part) -> Iterator[Item]:
    """The items in blocks of 32 neighbours, of which every `of`-th belongs to the part, in order.

    >>> list(items_of_part(range(100), Part(2, 2))) == [*range(32, 64), *range(96, 100)]
    True
    """
    return (item for place, item in enumerate(items) if place // BLOCK % part.of == part.number - 1)


def is_in_part(digest: bytes, part: Part) -> bool:
    """Whether the item with this SHA-256 belongs to the part; what other items there are has no influence.

    >>> [is_in_part(bytes([7] + [0] * 31), Part(number, 4)) for number in (1, 2, 3, 4)]
    [False, False, False, True]
    """
    # Little-endian: the first byte decides in two, four, ... sixteen parts, as it does about the locks of the
    # embedding store, so that buyers of different parts seldom wait for one another.
    return int.from_bytes(digest[:8], "little") % part.of == part.number - 1
