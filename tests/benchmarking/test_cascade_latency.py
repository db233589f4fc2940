"""Latency of a cascade: a mixture of the student's time and of both together."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.cascade_measurements import STUDENT, TEACHER, cascade_measurements
from vl2v_deploy.benchmarking.judge.cascade.latency import cascade_latency, lognormal_s, mixture_ms
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("percentile", [50, 99])
def test_percentiles_are_those_of_images_drawn_at_random(share: float, percentile: int) -> None:
    rng = np.random.default_rng(0)
    own, theirs = 0.002 * rng.lognormal(0, 0.2, 5000), 0.1 * rng.lognormal(0, 0.5, 5000)
    asked = rng.random(400_000) < share
    drawn = rng.choice(own, len(asked)) + asked * rng.choice(theirs, len(asked))
    found = mixture_ms(own.tolist(), theirs.tolist(), share, percentile)
    assert found == pytest.approx(1e3 * np.percentile(drawn, percentile), rel=0.05)


def test_a_percentile_needs_ten_samples_beyond_it_of_what_lies_there() -> None:
    own = [0.002 + 1e-6 * i for i in range(2000)]
    theirs = [0.1 + 1e-4 * i for i in range(150)]
    # at a share of 20 %, p99 is the teacher's 95th percentile: it takes 200 samples
    assert mixture_ms(own, theirs, 0.2, 99) is None
    assert mixture_ms(own, [0.1 + 1e-4 * i for i in range(250)], 0.2, 99) is not None
    assert mixture_ms(own, theirs, 0.2, 50) is not None
    assert mixture_ms(own[:15], theirs, 0.0, 50) is None
    assert mixture_ms(own[:900], theirs, 0.0, 99) is None and mixture_ms(own, theirs, 0.0, 99) is not None


def test_what_was_given_is_taken_instead_of_what_was_measured() -> None:
    m = cascade_measurements()
    engines = {engine.name: engine for engine in m.engines}
    given = CascadeTerms(teacher_p50_ms=200.0, teacher_p99_ms=1000.0)
    found = cascade_latency(engines[STUDENT], engines[TEACHER], 1.0, given)
    assert found is not None and found.p50_ms == pytest.approx(202, rel=0.02) and "as given" in found.teacher
    assert found.p99_ms == pytest.approx(1002, rel=0.03)
    measured = cascade_latency(engines[STUDENT], engines[TEACHER], 1.0, CascadeTerms())
    assert measured is not None and measured.p50_ms == pytest.approx(22, rel=0.1)
    # of an API's median alone nothing follows for the slowest images
    half = cascade_latency(engines[STUDENT], None, 0.2, CascadeTerms(teacher_p50_ms=200.0))
    assert half is not None and half.p99_ms is None and half.p50_ms == pytest.approx(2, rel=0.1)
    most = cascade_latency(engines[STUDENT], None, 0.7, CascadeTerms(teacher_p50_ms=200.0))
    assert most is not None and most.p50_ms is None  # it would be the teacher's 29th percentile
    assert cascade_latency(engines[STUDENT], None, 0.2, CascadeTerms()) is None
    assert np.median(lognormal_s(50.0, None)) == 0.05


def test_the_report_has_the_latency_of_the_shares_that_are_really_asked() -> None:
    report = judge(cascade_measurements(), Prices(), CascadeTerms(teacher_p50_ms=100.0, teacher_p99_ms=300.0))
    cascade = report.results.cascade
    assert cascade is not None and cascade.latency_ood is not None and cascade.latency_in_domain is not None
    assert cascade.latency_ood.share == cascade.chosen.domains["sketch"].share
    assert cascade.latency_in_domain.share == cascade.chosen.in_domain.share
    assert cascade.latency_ood.p99_ms is not None and cascade.latency_ood.p99_ms > 100
    assert cascade.chosen.in_domain.usd_per_million is None  # no prices
