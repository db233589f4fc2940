"""Shares with 95 % intervals, from samples of parts that are sampled at different rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from vl2v_deploy.client.intervals import wilson_interval


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval.

    share:     in [0, 1]; None where nothing was observed of some part
    low, high: ends of the interval; 0 and 1 where nothing is known
    n:         observations that it rests on
    """

    share: float | None
    low: float
    high: float
    n: int


def estimate(hits: int, n: int, population: int | None = None) -> Estimate:
    """hits / n with Wilson's interval (1927).

    population: of which the n are a random sample; the interval is for its share then, and narrows to nothing
                as n reaches it (finite population correction). None = endless

    >>> round(estimate(8, 10).low, 2), estimate(8, 10, population=10)
    (0.49, Estimate(share=0.8, low=0.8, high=0.8, n=10))
    """
    if n == 0:
        return Estimate(None, 0.0, 1.0, 0)
    share, (low, high) = hits / n, wilson_interval(hits, n)
    left = 1.0 if population is None else sqrt(1.0 - n / population)
    return Estimate(share, share - left * (share - low), share + left * (high - share), n)


def weighted(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """The share of a whole whose parts were sampled by themselves.

    parts: (weight, estimate) of each; weights are sizes, and a part of size 0 is left out

    The interval is made of the parts' intervals (Zou and Donner, 2008): each end is as far from the share as
    the root of the sum of the squared weighted distances. If nothing is known of a part, it may be 0 or 1.

    >>> weighted([(1, Estimate(0.5, 0.5, 0.5, 9)), (3, Estimate(0.1, 0.1, 0.1, 9))])
    Estimate(share=0.2, low=0.2, high=0.2, n=18)
    """
    whole = sum(weight for weight, _ in parts)
    if not whole:
        return Estimate(None, 0.0, 1.0, 0)
    found = [(weight / whole, part) for weight, part in parts if weight]
    n = sum(part.n for _, part in found)
    known = [(w, part, part.share) for w, part in found if part.share is not None]
    share = sum(w * p for w, _, p in known)
    below = sqrt(sum((w * (p - part.low)) ** 2 for w, part, p in known))
    above = sqrt(sum((w * (part.high - p)) ** 2 for w, part, p in known))
    unknown = sum(w for w, part in found if part.share is None)
    low, high = max(0.0, share - below), min(1.0, share + above + unknown)
    return Estimate(None if unknown else share, low, high, n)
