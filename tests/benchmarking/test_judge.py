"""Conclusions from measurements with known numbers: accuracy, speed, the headline and its engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.measurements import CLASSES, answers, cell, engine, image_set, measurements, usual
from vl2v_deploy.benchmarking.judge.judge import joules_per_image, judge, score_domain
from vl2v_deploy.benchmarking.judge.speed import (
    best_cell,
    cell_images_per_s,
    seconds_per_image,
    server_result,
)
from vl2v_deploy.benchmarking.report.tables import summary_grid
from vl2v_deploy.benchmarking.scenario import Server
from vl2v_deploy.benchmarking.schema import Energy, Predictions, Prices, Report, ServerRun, ServerTrial
from vl2v_deploy.client.manifest import RunAccuracy
from vl2v_deploy.errors import BenchmarkError

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)


@pytest.fixture(scope="module")
def report() -> Report:
    return judge(usual(), PRICES)


def test_accuracy_is_what_was_put_in(report: Report) -> None:
    domains = report.results.engines["onnxruntime:int8"].domains
    assert {name: (d.role, d.n, d.correct) for name, d in domains.items()} == {
        "clip art": ("source", 400, 316),
        "photo": ("source", 400, 316),
        "sketch": ("target", 400, 316),
    }
    sketch = domains["sketch"]
    assert sketch.accuracy == 0.79 and sketch.low < 0.79 < sketch.high and sketch.interval == "Wilson"
    # 4 images of 400 get another label than torch gives; the teacher's 40 wrong ones are among the student's
    assert sketch.agreement_torch == pytest.approx(0.99)
    assert sketch.agreement_teacher == pytest.approx(1 - 44 / 400)
    assert report.results.engines["torch:fp32"].domains["sketch"].agreement_torch is None
    assert sum(c.correct for c in sketch.per_class.values()) == 316
    assert {name: c.n for name, c in sketch.per_class.items()} == dict.fromkeys(CLASSES, 100)


def test_id_is_the_mean_of_the_sources_and_the_worst_domain_is_named() -> None:
    images = image_set()
    wrong = {"clip art": 40, "photo": 80, "sketch": 200}
    only = measurements([engine("onnxruntime:fp32", answers(images, wrong), 4.0)], images)
    result = judge(only, Prices()).results.engines["onnxruntime:fp32"]
    assert result.id_accuracy == pytest.approx((0.9 + 0.8) / 2)
    assert result.worst_domain == "sketch" and result.domains["sketch"].accuracy == 0.5


def test_a_class_without_images_has_no_accuracy_to_divide() -> None:
    images = image_set(n=8, classes=CLASSES[:2])
    scored = score_domain(
        images.domains["sketch"], Predictions(labels=[0, 1] * 4, confidence=[1.0] * 8), list(CLASSES)
    )
    assert scored.per_class["mammal"].n == 0 and scored.accuracy == 1.0 and scored.low < 0.7
    assert scored.ece == 0.0


def test_groups_widen_the_interval() -> None:
    alone, grouped = image_set(), image_set(group_size=8)
    results = [
        judge(measurements([engine("onnxruntime:fp32", answers(i, 80), 4.0)], i), Prices()).results
        for i in (alone, grouped)
    ]
    widths = []
    for result in results:
        scored = result.engines["onnxruntime:fp32"].domains["sketch"]
        widths.append((scored.high - scored.low, scored.interval))
    assert widths[1][1] == "bootstrap over groups" and widths[0][1] == "Wilson"


def test_timings_are_of_the_raw_samples(report: Report) -> None:
    result = report.results.engines["onnxruntime:fp32"]
    raw = next(e for e in report.measurements.engines if e.name == "onnxruntime:fp32").cells[0]
    samples = [s for one in raw.rounds_s for s in one]
    assert result.latency.n == 200 and result.latency.batch == 1 and result.latency.scope == "bytes_to_label"
    assert result.latency.p50_ms == pytest.approx(1e3 * np.median(samples))
    assert result.latency.p90_ms == pytest.approx(1e3 * np.quantile(samples, 0.9))
    assert result.latency.p99_ms is None  # 200 samples have two beyond it
    assert result.best.batch == 8 and result.best.images_per_s == pytest.approx(1 / (0.6 * 0.004), rel=0.1)
    assert result.usd_per_million == pytest.approx(1e6 / 3600 / result.best.images_per_s)


def test_streams_overlap_so_their_wall_time_counts() -> None:
    # two calls in flight, each 0.2 s, ten of them in 1 s
    both = cell(0.2, batch=4, streams=2, rounds_s=[[0.2] * 5, [0.2] * 5], wall_s=[0.5, 0.5])
    assert cell_images_per_s(both) == pytest.approx(40.0)
    assert np.mean(np.concatenate(seconds_per_image(both))) == pytest.approx(1 / 40.0)
    one = cell(0.2, batch=4, rounds_s=[[0.2] * 10], wall_s=[99.0])
    assert cell_images_per_s(one) == pytest.approx(20.0)
    best = best_cell([one, both, cell(0.001, scope="session")])
    assert (best.streams, best.batch) == (2, 4)


@pytest.mark.parametrize(
    ("latencies", "held", "why"),
    [
        ([0.01, 0.02, 0.03], 30.0, "the highest rate that was tried"),
        ([0.01, 0.2, 0.03], 10.0, "20 per second: p90 was 200 ms, over 100 ms"),  # a lucky 30 does not count
        ([0.2, 0.2, 0.2], None, "10 per second: p90 was 200 ms"),
    ],
)
def test_a_server_holds_a_rate_when_it_held_all_below(
    latencies: list[float], held: float | None, why: str
) -> None:
    trials = [
        ServerTrial(rate_per_s=10.0 * (i + 1), samples_s=[latency] * 100, dropped=0)
        for i, latency in enumerate(latencies)
    ]
    result = server_result(ServerRun(threads=2, trials=trials[::-1]), Server(percentile=90))
    assert result is not None and result.rate_per_s == held and result.why is not None and why in result.why


def test_a_rate_of_thousands_is_written_in_full() -> None:
    trial = ServerTrial(rate_per_s=1234.5, samples_s=[1.5] * 100, dropped=0)
    result = server_result(ServerRun(threads=2, trials=[trial]), Server(percentile=90))
    assert result is not None and result.why == "1,234 per second: p90 was 1500 ms, over 100 ms"


@pytest.mark.parametrize(
    ("samples", "dropped", "why"),
    [(99, 0, "99 samples are too few for p90"), (100, 3, "3 arrivals were")],
)
def test_a_server_that_drops_or_has_too_few_samples_does_not_hold(
    samples: int, dropped: int, why: str
) -> None:
    trial = ServerTrial(rate_per_s=10.0, samples_s=[0.01] * samples, dropped=dropped)
    result = server_result(ServerRun(threads=2, trials=[trial]), Server(percentile=90))
    assert result is not None and result.rate_per_s is None and result.why is not None and why in result.why


def test_energy_is_above_idle_and_absent_without_a_meter() -> None:
    meter: dict[str, Any] = {"meter": "rapl", "reason": None, "images": 10, "wall_s": 2.0}
    assert joules_per_image(Energy(**meter, joules=100.0, idle_watts=30.0)) == pytest.approx(4.0)
    assert joules_per_image(Energy(**meter, joules=100.0, idle_watts=None)) == pytest.approx(10.0)
    assert joules_per_image(Energy(**meter, joules=50.0, idle_watts=30.0)) is None
    absent = Energy(meter=None, reason="no RAPL", joules=None, images=10, wall_s=2.0, idle_watts=None)
    assert joules_per_image(absent) is None and joules_per_image(None) is None


def test_the_headline_is_about_the_cheapest_right_file(report: Report) -> None:
    results = report.results
    assert results.primary == "onnxruntime:int8"
    assert results.headline.startswith(
        "The student in onnxruntime:int8 gives up 11.0 points of OOD accuracy on 'sketch' (79.0"
    )
    ratio = (
        results.engines["onnxruntime:int8"].best.images_per_s / results.engines["teacher"].best.images_per_s
    )
    assert f"{ratio:.3g} times cheaper than the teacher on a machine" in results.headline
    assert "times cheaper than the teacher's API ($100)" in results.headline


def headline(student: int, teacher: int | None, prices: Prices | None = None, n: int = 400) -> str:
    images = image_set(n)
    engines = [engine("onnxruntime:fp32", answers(images, student), 4.0)]
    if teacher is not None:
        engines.append(engine("teacher", answers(images, teacher), 20.0))
    return judge(measurements(engines, images), prices or Prices()).results.headline


def test_a_gain_is_one_only_beyond_its_interval() -> None:
    assert "gains 10.0 points of OOD accuracy" in headline(40, 80)
    assert "is level in OOD accuracy on 'sketch' (90.2 against the teacher's 90.0" in headline(39, 40)
    assert "is level" in headline(40, 40)
    assert "gives up 0.2 points" in headline(41, 40) and "do not prove" in headline(41, 40)
    assert "gives up 10.0 points" in headline(80, 40) and "do not prove" not in headline(80, 40)


def test_without_prices_the_headline_speaks_of_speed_and_without_a_teacher_of_neither() -> None:
    assert "labels 5" in headline(40, 40) and "times as many images per second" in headline(40, 40)
    assert headline(40, None).startswith(
        "The student in onnxruntime:fp32 has 90.0 % OOD accuracy on 'sketch' (95 % interval 86.7 to 92.6)."
    )
    free = headline(40, 40, Prices(usd_per_hour=0.0, usd_per_1k_queries=1.0))
    assert "free, unlike the teacher's API" in free  # a machine that costs nothing divides by nothing


def test_a_recorded_teacher_stands_in_and_is_called_recorded() -> None:
    images = image_set()
    only = measurements([engine("onnxruntime:fp32", answers(images, 80), 4.0)], images)
    recorded = RunAccuracy("sketch", {"sketch": 0.8}, teacher={"sketch": 0.95, "photo": 0.9})
    bundle = only.bundle.model_copy(update={"recorded_accuracy": recorded})
    report = judge(only.model_copy(update={"bundle": bundle}), Prices(usd_per_hour=1, usd_per_1k_queries=0.1))
    assert "where the teacher's recorded one is 95.0 %" in report.results.headline
    assert "times cheaper than the teacher's API ($100)" in report.results.headline


def test_a_teacher_that_cannot_be_timed_is_compared_all_the_same() -> None:
    """Its answers were paid for: only what needs its time is left out."""
    images = image_set()
    student = engine("onnxruntime:fp32", answers(images, 80), 4.0)
    asked = engine(
        "teacher", answers(images, 20), 1.0, status="unavailable", reason="no modules", cells=[], processes=[]
    )
    m = measurements([student, asked], images)
    recorded = RunAccuracy("sketch", {"sketch": 0.8}, teacher={"sketch": 0.5})
    m = m.model_copy(update={"bundle": m.bundle.model_copy(update={"recorded_accuracy": recorded})})
    report = judge(m, Prices(usd_per_hour=1, usd_per_1k_queries=0.1))
    assert "80.0 against the teacher's 95.0" in report.results.headline
    (kept,) = [verdict for verdict in report.results.verdicts if verdict.about == "accuracy"]
    assert (kept.answer, kept.numbers["difference"]) == ("no", pytest.approx(-0.15))
    assert report.results.engines["onnxruntime:fp32"].domains["sketch"].agreement_teacher == 0.85
    assert list(report.results.engines) == ["onnxruntime:fp32"]
    assert summary_grid(report).rows[-1] == ("teacher (not timed)", "95.0", "95.0", "-", "-", "100", "-")


def pick(engines: dict[str, tuple[int, float]]) -> str | None:
    """The primary engine of engines with so many wrong images and milliseconds."""
    images = image_set()
    made = [engine(name, answers(images, wrong), ms, noise=0.001) for name, (wrong, ms) in engines.items()]
    return judge(measurements(made, images), Prices()).results.primary


def test_where_both_are_free_nothing_is_saved() -> None:
    free = judge(usual(), Prices(usd_per_hour=0.0, usd_per_1k_queries=0.0)).results
    (saving,) = [verdict for verdict in free.verdicts if verdict.about == "saving"]
    assert saving.answer == "no" and saving.numbers == {"student_usd": 0.0, "teacher_usd": 0.0}
    never = [verdict for verdict in free.verdicts if verdict.about == "break-even"]
    assert [(v.answer, v.numbers["inferences"]) for v in never] == [("no", None)] * 2


def test_the_primary_engine_follows_its_rule() -> None:
    # int8 is fastest, but loses more than two points to the best
    assert pick({"onnxruntime:fp32": (80, 4.0), "onnxruntime:int8": (95, 1.0)}) == "onnxruntime:fp32"
    assert pick({"onnxruntime:fp32": (80, 4.0), "onnxruntime:int8": (86, 1.0)}) == "onnxruntime:int8"
    # within noise the more precise one
    assert pick({"onnxruntime:fp16": (80, 3.9), "onnxruntime:fp32": (80, 4.0)}) == "onnxruntime:fp32"
    # torch is the reference; it speaks only when alone
    assert pick({"torch:fp32": (80, 1.0), "onnxruntime:fp32": (80, 4.0)}) == "onnxruntime:fp32"
    assert pick({"torch:fp32": (80, 1.0)}) == "torch:fp32"


def test_the_primary_engine_is_not_chosen_on_the_target() -> None:
    images = image_set()
    wrong = {"onnxruntime:fp32": 80, "onnxruntime:int8": 80}
    for int8_on_target in (60, 120):  # ten points better or worse where nobody may look
        made = [
            engine(name, answers(images, dict.fromkeys(images.domains, n) | {"sketch": on_target}), ms)
            for (name, n), on_target, ms in zip(wrong.items(), (90, int8_on_target), (4.0, 1.0), strict=True)
        ]
        assert judge(measurements(made, images), Prices()).results.primary == "onnxruntime:int8"


def test_an_engine_that_answers_otherwise_is_not_primary_however_accurate_and_fast() -> None:
    images = image_set()
    right, otherwise = answers(images, 80), answers(images, 80, seed=5)
    engines = [
        engine("torch:fp32", right, 9.0),
        engine("onnxruntime:fp32", right, 4.0),
        engine("openvino:fp32", otherwise, 1.0),
    ]
    report = judge(measurements(engines, images), Prices())
    assert report.results.engines["openvino:fp32"].domains["sketch"].accuracy == 0.8
    assert report.results.primary == "onnxruntime:fp32"


def test_a_report_of_nothing_measured_says_so() -> None:
    images = image_set()
    failed = engine("onnxruntime:fp32", {}, 1.0, status="failed", reason="died", cells=[], processes=[])
    report = judge(measurements([failed], images), PRICES)
    assert report.results.primary is None and report.results.engines == {}
    assert report.results.headline == "No engine of the student could be measured."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"predictions": {}},
            r"'onnxruntime:fp32': predictions\.clip art: expected an answer to each of 400",
        ),
        ({"cells": [cell(0.1, scope="session")]}, "cells: expected times of bytes_to_label; got none"),
    ],
)
def test_what_cannot_be_concluded_from_is_refused(change: dict[str, Any], message: str) -> None:
    images = image_set()
    broken = engine("onnxruntime:fp32", answers(images, 80), 4.0).model_copy(update=change)
    with pytest.raises(BenchmarkError, match=message):
        judge(measurements([broken], images), PRICES)


def test_results_are_a_pure_function_of_what_is_in_the_file(report: Report) -> None:
    read = Report.model_validate_json(report.model_dump_json())
    assert judge(read.measurements, read.prices) == report
