"""Intervals, tests, percentiles and ratios against numbers worked by hand or by another method."""

from __future__ import annotations

from math import erfc
from pathlib import Path

import numpy as np
import pytest

from vl2v_deploy.benchmarking.judge.statistics import (
    accuracy_interval,
    group_bootstrap_interval,
    images_per_s,
    mcnemar_p,
    paired_difference,
    percentile_ms,
    ratio_band,
)
from vl2v_deploy.client.intervals import wilson_interval
from vl2v_deploy.data.domains import Sample, spread


def sample(number: int, label: int = 0) -> Sample:
    return Sample(Path(f"{number}.png"), "sketch", label, str(number), "test", sha256="")


@pytest.mark.parametrize(("percentile", "needed"), [(50, 20), (90, 100), (99, 1000)])
def test_a_percentile_needs_ten_samples_beyond_it(percentile: int, needed: int) -> None:
    samples = [i / 1000 for i in range(needed)]
    assert percentile_ms(samples[1:], percentile) is None
    assert percentile_ms(samples, percentile) == pytest.approx(np.quantile(samples, percentile / 100) * 1e3)


def test_throughput_counts_slow_iterations_in_full() -> None:
    assert images_per_s([0.1, 0.1, 0.8], batch=10) == pytest.approx(30.0)


@pytest.mark.parametrize(("correct", "n"), [(0, 5), (1, 7), (40, 50), (99, 100), (12, 12)])
def test_wilson_ends_solve_the_score_equation(correct: int, n: int) -> None:
    # the definition: the ends are the shares p at which |correct/n - p| is 1.96 standard errors
    for end in wilson_interval(correct, n):
        if 0 < end < 1:
            error = (end * (1 - end) / n) ** 0.5
            assert abs(correct / n - end) / error == pytest.approx(1.96, abs=1e-3)


def test_copies_of_an_image_in_one_group_add_no_certainty() -> None:
    rng = np.random.default_rng(1)
    hits = rng.random(60) < 0.7
    alone = group_bootstrap_interval(hits, [str(i) for i in range(60)])
    copied = group_bootstrap_interval(np.repeat(hits, 10), [str(i) for i in range(60) for _ in range(10)])
    assert copied == pytest.approx(alone, abs=0.03)
    assert alone == pytest.approx(wilson_interval(int(hits.sum()), 60), abs=0.03)


def test_interval_follows_the_groups() -> None:
    hits = np.array([True] * 15 + [False] * 5)
    by_image, how = accuracy_interval(hits, [str(i) for i in range(20)])
    assert by_image == wilson_interval(15, 20) and how == "Wilson"
    by_group, how = accuracy_interval(hits, [str(i // 5) for i in range(20)])
    assert how == "bootstrap over groups"
    assert by_group[1] - by_group[0] > by_image[1] - by_image[0]


def test_all_right_is_not_certain_when_groups_are_few() -> None:
    interval, how = accuracy_interval(np.ones(20, bool), [str(i // 5) for i in range(20)])
    assert interval == wilson_interval(4, 4) and interval[0] < 0.6 and how == "Wilson over groups"


def test_one_group_alone_is_not_certain_either() -> None:
    hits, alone = np.arange(20) < 15, ["a"] * 20
    (low, high), how = accuracy_interval(hits, alone)
    assert low < 0.2 and high > 0.95 and how == "Wilson over groups"
    difference, low, high = paired_difference(hits, np.ones(20, bool), alone)
    assert difference == -0.25 and low < -0.9 and high > 0.4


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    groups = [str(i // 4) for i in range(160)]
    covered = 0
    for _ in range(200):
        # 40 groups of four images that stand or fall together, three in four right
        hits = np.repeat(rng.random(40) < 0.75, 4)
        (low, high), _ = accuracy_interval(hits, groups)
        covered += low <= 0.75 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_pairs_tell_what_two_intervals_do_not() -> None:
    # 500 images, both wrong on the same 100, ours on 15 more: unpaired intervals overlap widely
    theirs = np.arange(500) >= 100
    ours = theirs & (np.arange(500) < 485)
    groups = [str(i) for i in range(500)]
    difference, low, high = paired_difference(ours, theirs, groups)
    assert difference == pytest.approx(-0.03) and low < -0.03 < high < 0
    assert wilson_interval(int(ours.sum()), 500)[1] > wilson_interval(int(theirs.sum()), 500)[0]
    # the bootstrap's ends are near the normal approximation of the paired difference
    error = 1.96 * np.std(ours.astype(float) - theirs) / 500**0.5
    assert (low, high) == pytest.approx((-0.03 - error, -0.03 + error), abs=0.004)
    assert paired_difference(theirs, ours, groups)[0] == pytest.approx(0.03)


def test_paired_groups_that_fall_together_widen_the_difference() -> None:
    theirs = np.ones(200, bool)
    ours = np.arange(200) >= 20
    _, low, _ = paired_difference(ours, theirs, [str(i) for i in range(200)])
    _, low_grouped, _ = paired_difference(ours, theirs, [str(i // 20) for i in range(200)])
    assert low_grouped < low < -0.1


def test_mcnemar_is_the_sign_test_of_the_images_that_differ() -> None:
    rng = np.random.default_rng(3)
    # by simulation: 12 discordant images, 2 won and 10 lost
    tosses = rng.random((200_000, 12)) < 0.5
    extreme = float((np.abs(tosses.sum(1) - 6) >= 4).mean())
    ours = np.array([True] * 2 + [False] * 10 + [True] * 50)
    theirs = np.array([False] * 2 + [True] * 10 + [True] * 50)
    assert mcnemar_p(ours, theirs) == pytest.approx(extreme, abs=0.003)
    assert mcnemar_p(ours, theirs) == mcnemar_p(theirs, ours)
    # tens of thousands, as of a large data set: still exact, at once, and near the normal approximation
    ours = np.arange(40_000) < 19_800  # 200 fewer than half: z = (|won - lost| - 1) / sqrt(won + lost)
    assert mcnemar_p(ours, ~ours) == pytest.approx(erfc(399 / 40_000**0.5 / 2**0.5), rel=1e-3)


def test_ratio_of_rounds_by_hand() -> None:
    fast, slow = [[0.1, 0.1], [0.2, 0.2]], [[0.2, 0.2], [0.4, 0.4]]
    # taking turns, both had the slow round at once: the ratio is 2 whatever is drawn
    assert ratio_band(slow, fast, np.median, paired=True) == pytest.approx((2.0, 2.0, 2.0))
    ratio, low, high = ratio_band(slow, fast, np.mean, paired=False)
    assert ratio == pytest.approx(2.0) and low == pytest.approx(1.0) and high == pytest.approx(4.0)


def test_spread_keeps_each_class_its_share() -> None:
    samples = [sample(i, label=i // 50) for i in range(100)]
    chosen = spread(samples, 10)
    assert [s.label for s in chosen] == [0] * 5 + [1] * 5
    assert spread(samples, None) == tuple(samples) == spread(samples, 1000)
