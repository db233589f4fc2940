"""Numbers from raw samples: accuracies with their intervals, percentiles of a latency, throughput, ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.cascade.standard_error import deviations_by_group
from vl2v_deploy.client.intervals import Z_95, wilson_interval

BOOTSTRAP_DRAWS = 2000
DRAWN_AT_ONCE = 4_000_000  # elements; bounds the memory of a bootstrap over many groups
SAMPLES_BEYOND = 10  # a percentile with fewer samples beyond it is noise, and withheld
FEWEST_ROUNDS = 4  # for the interval of a bootstrap over rounds

Floats = npt.NDArray[np.float64]
Hits = npt.NDArray[np.bool_]


def group_bootstrap_interval(hits: Hits, groups: Sequence[str]) -> tuple[float, float]:
    """95 % interval of hits.mean() by bootstrap over whole groups (2000 draws, fixed seed); in [0, 1].

    hits:   (n,) whether each image was right
    groups: n group names
    """
    return _interval_of_draws(_bootstrap_means(hits.astype(np.float64), groups), level=95.0)


def accuracy_interval(hits: Hits, groups: Sequence[str]) -> tuple[tuple[float, float], str]:
    """95 % interval of hits.mean(), and the method that gave it.

    Where every image is its own group a bootstrap would be a binomial draw; Wilson's interval needs no draws,
    and does not claim certainty where none or all are right.

    hits:   (n,) whether each image was right, n >= 1
    groups: n group names
    """
    distinct = len(set(groups))
    if distinct == len(groups):
        return wilson_interval(int(hits.sum()), len(groups)), "Wilson"
    if distinct == 1 or hits.all() or not hits.any():
        # Every resample is alike: the bootstrap would claim certainty. Count groups, not images.
        return wilson_interval(distinct * float(hits.mean()), distinct), "Wilson over groups"
    return group_bootstrap_interval(hits, groups), "bootstrap over groups"


def mean_of_domains_interval(
    hits: Sequence[Hits], groups: Sequence[Sequence[str]]
) -> tuple[float, float, float]:
    """The mean over domains of each one's accuracy, with its 95 % interval; all in [0, 1].

    By the linearised variance over groups, which may have images in several domains: of each group the sum of
    its images' distances from their domain's mean, squared. Like Wilson's it claims no certainty where all or
    none are right.

    hits:   of each domain (n,) whether each image was right, n >= 1
    groups: of each domain n group names

    >>> hits, groups = np.array([True, False] * 50), [str(number) for number in range(100)]
    >>> [round(end, 3) for end in mean_of_domains_interval([hits], [groups])]
    [0.5, 0.402, 0.598]
    """
    mean = float(np.mean([one.mean() for one in hits]))
    by_group = deviations_by_group([one.astype(np.float64) for one in hits], groups)
    if not by_group.any():
        low, high = wilson_interval(len(by_group) * mean, len(by_group))
        return mean, low, high
    half = Z_95 * float(np.square(by_group).sum()) ** 0.5
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def paired_difference(
    ours: Hits, theirs: Hits, groups: Sequence[str], level: float = 95.0
) -> tuple[float, float, float]:
    """ours.mean() - theirs.mean() on the same images, with the ends of its interval.

    Bootstrap over groups of the difference image by image, so that images that are hard for both cancel.
    Where both get the same images right, or all are one group, every resample is alike; the margin is then
    Wilson's upper end of none in as many groups.

    ours, theirs: (n,) whether each image was right, n >= 1
    groups:       n group names
    level:        of the interval, per cent

    >>> same = np.array([True, False, True, True])
    >>> [round(value, 3) for value in paired_difference(same, same, ["a", "b", "c", "d"])]
    [0.0, -0.49, 0.49]
    """
    difference = ours.astype(np.float64) - theirs.astype(np.float64)  # (n,) -1, 0 or 1
    mean = float(difference.mean())
    distinct = len(set(groups))
    if distinct == 1 or np.all(difference == difference[0]):
        margin = wilson_interval(0, distinct)[1]
        return mean, max(-1.0, mean - margin), min(1.0, mean + margin)
    low, high = _interval_of_draws(_bootstrap_means(difference, groups), level)
    return mean, low, high


def mcnemar_p(ours: Hits, theirs: Hits) -> float:
    """Exact two-sided p-value of McNemar's test: how likely so uneven a split of the images is by chance.

    Only images that one of the two gets right count; if neither were better, each would be a coin toss.

    ours, theirs: (n,) whether each image was right

    >>> both = np.array([True] * 10)
    >>> mcnemar_p(both, both), mcnemar_p(both, ~both)
    (1.0, 0.001953125)
    """
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    tosses = won + lost
    ways = tail = 1  # of k = 0 wins; each k's from the last one's, as thousands of images may differ
    for k in range(min(won, lost)):
        ways = ways * (tosses - k) // (k + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**tosses))


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


def ratio_band(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    statistic: Callable[[Floats], np.floating[Any]],
    *,
    paired: bool,
    level: float = 95.0,
) -> tuple[float, float, float]:
    """statistic(ours) / statistic(theirs) with the ends of its interval, by bootstrap over whole rounds.

    Samples of one round share the state of the machine, so rounds are what is drawn.

    ours, theirs: samples of each round, at least one per round
    statistic:    of all samples together, such as np.median
    paired:       both were measured in the same rounds, taking turns: a round is drawn for both at once
    level:        of the interval, per cent

    >>> ratio_band([[2.0], [4.0]], [[1.0], [2.0]], np.median, paired=True)
    (2.0, 2.0, 2.0)
    """
    rng = np.random.default_rng(0)
    mine, others = ([np.asarray(one) for one in rounds] for rounds in (ours, theirs))
    paired = paired and len(mine) == len(others)

    def ratio(drawn: Sequence[Floats], drawn_others: Sequence[Floats]) -> float:
        return float(statistic(np.concatenate(drawn)) / statistic(np.concatenate(drawn_others)))

    ratios = []
    for _ in range(BOOTSTRAP_DRAWS // 4):
        draw = rng.integers(len(mine), size=len(mine))
        other = draw if paired else rng.integers(len(others), size=len(others))
        ratios.append(ratio([mine[i] for i in draw], [others[i] for i in other]))
    return ratio(mine, others), *_interval_of_draws(np.array(ratios), level)


def _bootstrap_means(values: Floats, groups: Sequence[str]) -> Floats:
    """(2000,) means of `values` over groups drawn with replacement, from a fixed seed."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    total = np.bincount(member, weights=values)  # (G,)
    size = np.bincount(member).astype(np.float64)  # (G,)
    rng = np.random.default_rng(0)
    at_once = max(1, DRAWN_AT_ONCE // len(names))
    means = []
    for start in range(0, BOOTSTRAP_DRAWS, at_once):
        shape = (min(at_once, BOOTSTRAP_DRAWS - start), len(names))
        draws = rng.integers(len(names), size=shape)
        means.append(total[draws].sum(1) / size[draws].sum(1))
    return np.concatenate(means)


def _interval_of_draws(draws: Floats, level: float) -> tuple[float, float]:
    beyond = (100.0 - level) / 2
    low, high = np.percentile(draws, (beyond, 100.0 - beyond))
    return float(low), float(high)
