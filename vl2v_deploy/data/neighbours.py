"""Which points of two tables can be near one another, without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.intp]
Points = npt.NDArray[np.float32]
FEW_PAIRS = 1_000_000  # which are compared in less time than it takes to divide them further


def neighbours(points: Points, others: Points, reach: float) -> Iterator[tuple[Rows, Rows]]:
    """Groups of rows of `points` with rows of `others`.

    A point and another that differ by no more than `reach` along every axis are in one group together. A row
    of `points` is in one group at most, one of `others` may be in several. The axes along which they are
    spread most should come first.

    points, others: (N, D) and (M, D)
    """
    yield from _divided(np.arange(len(points)), np.arange(len(others)), points, others, reach, axis=0)


def _divided(
    rows: Rows, columns: Rows, points: Points, others: Points, reach: float, axis: int
) -> Iterator[tuple[Rows, Rows]]:
    if not (len(rows) and len(columns)):
        return
    if len(rows) * len(columns) <= FEW_PAIRS or axis == points.shape[1]:
        yield rows, columns
        return
    rows, columns = rows[np.argsort(points[rows, axis])], columns[np.argsort(others[columns, axis])]
    places, of_others = points[rows, axis].astype(np.float64), others[columns, axis].astype(np.float64)
    slab = np.floor((places - places[0]) / reach)
    starts = np.flatnonzero(np.diff(slab, prepend=-1.0))
    ends = np.append(starts[1:], len(rows))
    first = np.searchsorted(of_others, places[starts] - reach)
    last = np.searchsorted(of_others, places[ends - 1] + reach, side="right")
    if ((ends - starts) * (last - first)).sum() > len(rows) * len(columns) / 2:  # too close along this axis
        yield from _divided(rows, columns, points, others, reach, axis + 1)
        return
    for start, end, low, high in zip(starts, ends, first, last, strict=True):
        yield from _divided(rows[start:end], columns[low:high], points, others, reach, axis + 1)
