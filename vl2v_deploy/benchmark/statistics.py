"""Numbers from raw samples: intervals of an accuracy, percentiles of a latency, throughput."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Z_95 = 1.959964  # two-sided 95 % of the normal distribution
BOOTSTRAP_DRAWS = 2000
PERCENTILES = (50, 90, 99)
SAMPLES_BEYOND = 10  # fewer beyond a percentile and it is noise: withheld


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


def group_bootstrap_interval(hits: npt.NDArray[np.bool_], groups: Sequence[str]) -> tuple[float, float]:
    """95 % interval of hits.mean() when images of one group stand or fall together; both ends in [0, 1].

    Whole groups are drawn with replacement, 2000 times, from a fixed seed.

    hits:   (n,) whether each image was right
    groups: n group names
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    right = np.bincount(member, weights=hits.astype(np.float64))  # (G,)
    size = np.bincount(member).astype(np.float64)  # (G,)
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(names), size=len(names)) for _ in range(BOOTSTRAP_DRAWS))
    shares = [right[draw].sum() / size[draw].sum() for draw in draws]
    low, high = np.percentile(shares, (2.5, 97.5))
    return float(low), float(high)


def percentile_ms(samples_s: Sequence[float], percentile: int) -> float | None:
    """The percentile in milliseconds; None with fewer than ten samples beyond it (p50: 20, p90: 100).

    >>> percentile_ms([0.002] * 20, 50), percentile_ms([0.002] * 20, 90)
    (2.0, None)
    """
    if len(samples_s) * (100 - percentile) < SAMPLES_BEYOND * 100:
        return None
    return float(np.percentile(samples_s, percentile)) * 1e3


def images_per_s(samples_s: Sequence[float], batch: int) -> float:
    """Throughput: all images over all time, so that slow iterations count in full.

    >>> images_per_s([0.5, 1.5], batch=8)
    8.0
    """
    return batch * len(samples_s) / sum(samples_s)
