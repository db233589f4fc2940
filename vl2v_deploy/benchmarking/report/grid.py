"""A table of text, as every form of a report shows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Grid:
    """A table of text: the first column holds names, the others numbers unless `words` says otherwise.

    words: indices of further columns that hold words
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    words: tuple[int, ...] = ()
