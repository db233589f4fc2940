"""Intervals of shares. Imports nothing: reports and the client do without torch."""

from __future__ import annotations

Z_95 = 1.959964  # two-sided 95 % of the normal distribution


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """95 % interval of the share correct / n (Wilson 1927); both ends in [0, 1].

    >>> [round(end, 3) for end in wilson_interval(8, 10)]
    [0.49, 0.943]
    >>> [round(end, 3) for end in wilson_interval(10, 10)]
    [0.722, 1.0]
    """
    share, z2 = correct / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5
    # At none or all correct one end is exactly 0 or 1; rounding would leave 1e-17 beside it.
    return (centre - half if correct > 0 else 0.0), (centre + half if correct < n else 1.0)
