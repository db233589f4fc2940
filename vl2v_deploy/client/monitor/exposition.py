"""Prometheus' text format, version 0.0.4, written without its client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Literal

from vl2v_deploy.client.micro_batcher import BatcherStatistics
from vl2v_deploy.client.monitor.drift import Drift
from vl2v_deploy.client.monitor.operations import Histogram, Operations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    operations: Operations,
    drift: Drift,
    batcher: BatcherStatistics | None,
    escalated: int | None,
    spent_usd: float | None,
    budget_usable: bool | None = None,
) -> str:
    """The metrics of a student; arguments as of Monitor.metrics."""
    now = operations.now()
    lines = [
        *_metric("vl2v_predictions_total", "counter", "Images that were answered.", now.predictions),
        *_metric("vl2v_abstained_total", "counter", "Answers below the threshold.", now.abstained),
        *_labelled("vl2v_errors_total", "counter", "Failed requests.", "error", now.errors.items()),
        *_histogram("vl2v_request_seconds", "Time from request to answer.", now.seconds),
        *_histogram("vl2v_batch_images", "Images run together.", now.batches),
    ]
    if batcher is not None:
        lines += _of_batcher(batcher)
    if escalated is not None:
        lines += _metric("vl2v_escalated_total", "counter", "Images a cascade escalated.", escalated)
    if spent_usd is not None:
        # No counter: what was certainly not billed is given back.
        lines += _metric("vl2v_spent_usd", "gauge", "US dollars that the teacher cost.", spent_usd)
    if budget_usable is not None:
        about = "0 while the budget's file cannot be used, so that the teacher is not asked."
        lines += _metric("vl2v_budget_usable", "gauge", about, int(budget_usable))
    return "\n".join([*lines, *_of_drift(drift), ""])


def _of_batcher(batcher: BatcherStatistics) -> Iterator[str]:
    yield from _metric("vl2v_queue_images", "gauge", "Images accepted, not yet done.", batcher.in_flight)
    yield from _metric("vl2v_batches_total", "counter", "Runs of the session.", batcher.batches)
    outcomes = ("answered", "refused", "failed", "cancelled", "rejected")
    counts = [(name, getattr(batcher, name)) for name in outcomes]
    yield from _labelled("vl2v_queued_total", "counter", "Images by what became of them.", "outcome", counts)


def _of_drift(drift: Drift) -> Iterator[str]:
    yield from _metric(
        "vl2v_drift_alarm", "gauge", "1 from the alarm to a reset.", int(drift.alarm is not None)
    )
    yield from _metric("vl2v_drift_evidence", "gauge", "Largest wealth of the bets.", drift.evidence)
    yield from _metric("vl2v_drift_evidence_needed", "gauge", "Wealth that raises an alarm.", drift.needed)
    distances = [(one.name, one.distance) for one in drift.statistics]
    yield from _labelled(
        "vl2v_drift_distance", "gauge", "From source validation, 0 to 1.", "statistic", distances
    )


def _metric(name: str, kind: Literal["counter", "gauge"], about: str, value: float) -> Iterator[str]:
    yield from _head(name, kind, about)
    yield f"{name} {_number(value)}"


def _labelled(
    name: str, kind: Literal["counter", "gauge"], about: str, label: str, values: Iterable[tuple[str, float]]
) -> Iterator[str]:
    yield from _head(name, kind, about)
    for key, value in values:
        yield f"{name}{_labels({label: key})} {_number(value)}"


def _histogram(name: str, about: str, histogram: Histogram) -> Iterator[str]:
    yield from _head(name, "histogram", about)
    limits = [*map(_number, histogram.limits), "+Inf"]
    for limit, count in zip(limits, accumulate(histogram.counts), strict=True):
        yield f"{name}_bucket{_labels({'le': limit})} {count}"
    yield f"{name}_sum {_number(histogram.total)}"
    yield f"{name}_count {sum(histogram.counts)}"


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, str]) -> str:
    """In braces, escaped.

    >>> _labels({"class": "cat"})
    '{class="cat"}'
    """
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return f"{value:.17g}"
