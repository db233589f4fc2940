"""Latency of a cascade: most images wait for the student alone, the others for the teacher too."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from vl2v_deploy.benchmarking.judge.speed import latency_cell, samples_of
from vl2v_deploy.benchmarking.judge.statistics import SAMPLES_BEYOND, Floats, percentile_ms
from vl2v_deploy.benchmarking.judge.words import ms
from vl2v_deploy.benchmarking.schema import CascadeLatency, CascadeTerms, EngineMeasurement

# Quantiles of a distribution that is given by two percentiles, and the most samples that are paired.
GIVEN, PAIRED = 2000, 500


def cascade_latency(
    student: EngineMeasurement, teacher: EngineMeasurement | None, share: float, terms: CascadeTerms
) -> CascadeLatency | None:
    """Percentiles where `share` of the images is escalated; None where nothing is known of the teacher's.

    teacher: None = it was not timed
    """
    own = samples_of(latency_cell(student.cells))
    if terms.teacher_p50_ms is not None:
        known = f"p50 {ms(terms.teacher_p50_ms)} ms"
        if terms.teacher_p99_ms is not None:
            known += f", p99 {ms(terms.teacher_p99_ms)} ms"
        theirs: Sequence[float] = lognormal_s(terms.teacher_p50_ms, terms.teacher_p99_ms)
        # The median alone says nothing of the teacher's other percentiles, which the mixture's would be.
        whole = terms.teacher_p99_ms is not None
        p99 = mixture_ms(own, theirs, share, 99, given=True) if whole or not share else None
        p50 = mixture_ms(own, theirs, share, 50, given=True) if whole or share <= 0.5 or share == 1 else None
        return CascadeLatency(share=share, p50_ms=p50, p99_ms=p99, teacher=f"as given: {known}")
    if teacher is None:
        return None
    theirs = samples_of(latency_cell(teacher.cells))
    p50, p99 = (mixture_ms(own, theirs, share, percentile) for percentile in (50, 99))
    return CascadeLatency(share=share, p50_ms=p50, p99_ms=p99, teacher="as measured on this machine")


def lognormal_s(p50_ms: float, p99_ms: float | None) -> Sequence[float]:
    """Seconds, evenly spread over the log-normal distribution with these percentiles; without p99 the p50.

    >>> samples = lognormal_s(200.0, 1000.0)
    >>> [round(float(np.quantile(samples, q)), 1) for q in (0.5, 0.99)]
    [0.2, 1.0]
    """
    if p99_ms is None:
        return [p50_ms / 1e3]
    spread = np.log(p99_ms / p50_ms) / NormalDist().inv_cdf(0.99)
    places = [NormalDist().inv_cdf((i + 0.5) / GIVEN) for i in range(GIVEN)]
    return [float(s) for s in p50_ms / 1e3 * np.exp(spread * np.array(places))]


def mixture_ms(
    student_s: Sequence[float],
    teacher_s: Sequence[float],
    share: float,
    percentile: int,
    *,
    given: bool = False,
) -> float | None:
    """A percentile of: the student's time, and with probability `share` the teacher's on top of it.

    None where fewer than ten samples lie beyond it, of the one that most of what is beyond comes from.

    given: the teacher's are no samples, but a distribution that was given

    >>> mixture_ms([0.001] * 100, [0.1] * 100, share=0.2, percentile=50)
    1.0
    >>> mixture_ms([0.001] * 100, [0.1] * 10 + [0.2] * 10, share=0.2, percentile=99) is None
    True
    """
    if share == 0:
        return percentile_ms(student_s, percentile)
    own, theirs = np.sort(student_s), np.sort(teacher_s)
    alone, added = _thinned(own), _thinned(theirs)
    both = (alone[:, None] + added[None]).ravel()
    times = np.concatenate([alone, both])
    weight = np.concatenate(
        [np.full(len(alone), (1 - share) / len(alone)), np.full(len(both), share / len(both))]
    )
    order = np.argsort(times, kind="stable")
    reached = np.searchsorted(np.cumsum(weight[order]), percentile / 100 * (1 - 1e-12))
    found = float(times[order][min(int(reached), len(times) - 1)])
    # Equal times: half of them lie beyond.
    beyond_own = _beyond(own, found)
    beyond_theirs = _beyond(theirs, found - float(np.median(own)))
    student_tail = (1 - share) * beyond_own / len(own)
    teacher_tail = share * beyond_theirs / len(theirs)
    if teacher_tail > student_tail:
        enough = given or beyond_theirs >= SAMPLES_BEYOND
    else:
        enough = beyond_own >= SAMPLES_BEYOND
    return found * 1e3 if enough else None


def _beyond(times: Floats, limit: float) -> float:
    return float((times > limit).sum() + (times == limit).sum() / 2)


def _thinned(ordered: Floats) -> Floats:
    """At most PAIRED of the ordered samples: quantiles, evenly spread."""
    if len(ordered) <= PAIRED:
        return ordered
    return np.quantile(ordered, (np.arange(PAIRED) + 0.5) / PAIRED)
