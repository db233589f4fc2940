"""The range that loses least information when a tensor's histogram is cut and put into few levels.

onnxruntime's entropy calibrator finds the same range, but adds up its histograms in Python, number by number,
which took most of an int8 export. Here the sums are numpy's; they are sums of integers, so nothing is rounded
and the ranges are equal.

Source: Migacz, "8-bit Inference with TensorRT" (GTC 2017).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization.calibrate import entropy
from onnxruntime.quantization.quant_utils import smooth_distribution

Counts = npt.NDArray[np.int64]


class Histogram(NamedTuple):
    """Of a tensor's values, in equal bins that lie symmetrically around zero.

    counts:          (bins,)
    edges:           (bins + 1,)
    smallest, largest: of the values
    """

    counts: Counts
    edges: npt.NDArray[np.floating]
    smallest: Any
    largest: Any


def entropy_range(histogram: Histogram, levels: int) -> tuple[Any, Any]:
    """(low, high) of the cut with the smallest divergence; none lies outside the values.

    levels: how many numbers are left between low and high
    """
    counts, edges = histogram.counts, histogram.edges
    bins, middle, fewest = len(counts), len(counts) // 2, levels // 2
    if middle < fewest:
        raise ValueError(f"a histogram of {bins} bins cannot be put into {levels} levels")
    below = np.concatenate([[0], np.cumsum(counts)])  # (bins + 1,) values below each edge
    divergences = []
    for half in range(fewest, middle + 1):
        start, end = middle - half, min(middle + half + 1, bins)
        divergences.append(_divergence(counts[start:end], below[start], below[-1] - below[end], levels))
    half = fewest + int(np.argmin(divergences))
    low, high = edges[middle - half], edges[min(middle + half + 1, bins)]
    return max(low, histogram.smallest), min(high, histogram.largest)


def _divergence(kept: Counts, left: int, right: int, levels: int) -> float:
    """Kullback-Leibler divergence of the cut histogram, put into levels and spread again, from what it was.

    kept:        the bins of the cut
    left, right: how many values lie outside; they are added to the first and to the last bin
    """
    reference = kept.copy()
    reference[0] += left
    reference[-1] += right
    width = len(kept) // levels
    whole = width * levels  # the bins after these are added to the last level
    in_level = kept[:whole].reshape(levels, width).sum(axis=1)
    in_level[-1] += kept[whole:].sum()
    seen = (reference[:whole] != 0).reshape(levels, width).sum(axis=1)
    spread = np.zeros_like(kept)
    # Whole numbers, rounded down, as in onnxruntime's.
    spread[:whole] = np.repeat(in_level / np.maximum(seen, 1) * (seen > 0), width)
    p, q = smooth_distribution(reference), smooth_distribution(spread)
    return np.inf if p is None or q is None else float(entropy(p, q))
