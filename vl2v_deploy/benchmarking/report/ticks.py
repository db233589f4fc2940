"""Ticks of a logarithmic axis: as many round numbers as have room beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

# From dense to sparse: the numbers of a decade, and N where only each Nth decade has them.
_STEPS = (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 4))
_CHARACTER_EM, _GAP_EM = 0.62, 0.7  # of a label's characters in any font of the page, and between labels


def log_ticks(low: float, high: float, axis_px: float, text_px: float) -> list[float]:
    """Round numbers from low to high whose labels do not touch one another.

    low, high: ends of the axis, above 0
    axis_px:   between them
    text_px:   size of the labels' text

    >>> log_ticks(0.8, 60, axis_px=400, text_px=12)
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    >>> log_ticks(0.02, 4000, axis_px=250, text_px=12)
    [0.1, 1.0, 10.0, 100.0, 1000.0]
    """
    ticks: list[float] = []
    for numbers, every in _STEPS:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = [number * 10.0**decade for decade in decades if decade % every == 0 for number in numbers]
        ticks = [tick for tick in steps if low <= tick <= high]
        if _have_room(ticks, axis_px / math.log10(high / low), text_px):
            break
    return ticks


def log_label(value: float) -> str:
    """
    >>> log_label(0.03), log_label(3000.0)
    ('0.03', '3,000')
    """
    return f"{value:,g}"


def _have_room(ticks: Sequence[float], decade_px: float, text_px: float) -> bool:
    """Whether each label ends before the next begins."""
    widths = [_CHARACTER_EM * text_px * len(log_label(tick)) for tick in ticks]
    for number in range(len(ticks) - 1):
        apart = decade_px * math.log10(ticks[number + 1] / ticks[number])
        if apart < (widths[number] + widths[number + 1]) / 2 + _GAP_EM * text_px:
            return False
    return True
