"""Costs, intervals and percentiles against numbers worked by hand or by another method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vl2v_deploy.benchmark.accuracy import in_domain, out_of_domain, score_domain
from vl2v_deploy.benchmark.cost import api_usd_per_million, break_even_inferences, usd_per_million
from vl2v_deploy.benchmark.options import BenchmarkOptions, batches_from_text
from vl2v_deploy.benchmark.statistics import (
    group_bootstrap_interval,
    images_per_s,
    percentile_ms,
    wilson_interval,
)
from vl2v_deploy.data.domains import Sample, spread
from vl2v_deploy.errors import BenchmarkError


def sample(number: int, label: int = 0, group: str | None = None) -> Sample:
    return Sample(Path(f"{number}.png"), "sketch", label, group or str(number), "test", sha256="")


def test_cost_of_a_million_by_hand() -> None:
    # 50 images/s are 180,000 an hour: a million takes 5.5556 hours, at $0.90 and half idle $10
    assert usd_per_million(0.90, 50.0, utilisation=0.5) == pytest.approx(10.0)
    assert api_usd_per_million(1.5) == 1500.0


def test_break_even_by_hand() -> None:
    # the student saves $1,490 a million, so $74.50 are back after 50,000 images
    assert break_even_inferences(74.5, 1500.0, 10.0) == pytest.approx(50_000)
    assert break_even_inferences(74.5, 10.0, 1500.0) is None


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
    labels = np.array([0] * 15 + [1] * 5)
    by_image = score_domain([sample(i) for i in range(20)], labels, role="target", of=20)
    assert (by_image.correct, by_image.n, by_image.accuracy, by_image.interval) == (15, 20, 0.75, "Wilson")
    grouped = [sample(i, group=str(i // 5)) for i in range(20)]
    by_group = score_domain(grouped, labels, role="target", of=20)
    assert by_group.interval == "bootstrap over groups"
    assert by_group.high - by_group.low > by_image.high - by_image.low


def test_all_right_is_not_certain_when_groups_are_few() -> None:
    grouped = [sample(i, group=str(i // 5)) for i in range(20)]
    scored = score_domain(grouped, np.zeros(20, np.int64), role="target", of=20)
    assert (scored.low, scored.high) == wilson_interval(4, 4) and scored.low < 0.6


def test_id_is_the_mean_of_the_sources_and_ood_the_target() -> None:
    right, wrong = np.zeros(4, np.int64), np.ones(4, np.int64)
    samples = [sample(i) for i in range(4)]
    accuracies = {
        "photo": score_domain(samples, right, role="source", of=4),
        "cartoon": score_domain(samples, wrong, role="source", of=4),
        "sketch": score_domain(samples, right, role="target", of=4),
    }
    assert in_domain(accuracies) == 0.5 and out_of_domain(accuracies).accuracy == 1.0


def test_spread_keeps_each_class_its_share() -> None:
    samples = [sample(i, label=i // 50) for i in range(100)]
    chosen = spread(samples, 10)
    assert [s.label for s in chosen] == [0] * 5 + [1] * 5
    assert spread(samples, None) == tuple(samples) == spread(samples, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"usd_per_hour": -1.0}, "usd_per_hour: expected a price in US dollars, 0 or more, got -1.0"),
        ({"usd_per_1k_queries": float("nan")}, "usd_per_1k_queries: expected a price"),
        ({"distillation_usd": -0.5}, "distillation_usd: expected a price"),
        ({"utilisation": 0.0}, "utilisation: expected a share above 0"),
        ({"utilisation": 1.5}, "utilisation: expected a share above 0"),
        ({"batches": (0,)}, "batches: expected different sizes of 1 or more, got 0"),
        ({"batches": ()}, "batches: .* got none"),
        ({"batches": (1, 1)}, "batches: .* got 1, 1"),
        ({"threads": 0}, "threads: expected 1 or more, got 0"),
        ({"rounds": 0}, "rounds: expected 1 or more"),
        ({"max_images": 0}, "max_images: expected 1 or more"),
        ({"seconds": 0.0}, "seconds: expected seconds above 0"),
        ({"timeout_s": -1.0}, "timeout_s: expected seconds above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        BenchmarkOptions(**options)


@pytest.mark.parametrize("text", ["", "1,,8", "1;8", "eight", "1.5"])
def test_batches_that_are_not_numbers_are_refused(text: str) -> None:
    with pytest.raises(BenchmarkError, match="batches: expected whole numbers such as 1,8,32, got"):
        batches_from_text(text)
