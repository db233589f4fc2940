"""Verdicts on measurements with known numbers: precisions, accuracy, the Pareto front, wrong engines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.measurements import answers, cell, engine, image_set, measurements, usual
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import Predictions, Prices, ProcessFacts, Report, Verdict

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)


@pytest.fixture(scope="module")
def report() -> Report:
    return judge(usual(), PRICES)


def about(report: Report, what: str, name: str = "") -> Verdict:
    (found,) = [v for v in report.results.verdicts if v.about == what and name in v.text]
    return found


def test_int8_is_worth_it_by_speed_and_loss(report: Report) -> None:
    int8, fp16 = about(report, "int8"), about(report, "fp16")
    assert (int8.answer, fp16.answer) == ("yes", "no")
    assert int8.numbers["against"] == fp16.numbers["against"] == "onnxruntime:fp32"
    assert int8.numbers["speed_up"] == pytest.approx(2.0, rel=0.05)
    assert int8.numbers["ood_difference"] == pytest.approx(-0.01)
    assert int8.numbers["file_size"] == pytest.approx(4 / 14)


def worth(wrong: int, ms: float, noise: float = 0.02) -> Verdict:
    images = image_set()
    engines = [
        engine("onnxruntime:fp32", answers(images, 80), 4.0, noise=noise, seed=1),
        engine("onnxruntime:int8", answers(images, wrong), ms, noise=noise, seed=2),
    ]
    return about(judge(measurements(engines, images), Prices()), "int8")


def test_int8_is_not_worth_it_when_slow_lossy_or_unproven() -> None:
    assert worth(80, 3.6).answer == "no"
    assert worth(100, 2.0).answer == "no"  # five points lost
    assert worth(86, 2.0).answer == "unclear"  # six of 400: perhaps three points, perhaps half a one
    assert worth(80, 3.0, noise=2.0).answer == "unclear"  # a fifth faster or not: the rounds do not tell


def test_a_speed_up_of_few_rounds_is_not_believed() -> None:
    images = image_set()
    same = answers(images, 80)
    engines = [
        engine(f"onnxruntime:{precision}", same, 1.0, cells=[cell(seconds, rounds=3)])
        for precision, seconds in (("fp32", 0.004), ("int8", 0.002))
    ]
    int8 = about(judge(measurements(engines, images), Prices()), "int8")
    assert int8.answer == "unclear" and "too few rounds for an interval" in int8.text


def test_the_teacher_accuracy_verdict_has_three_answers() -> None:
    def verdict(student: int, teacher: int, n: int) -> Verdict:
        images = image_set(n)
        engines = [
            engine("onnxruntime:fp32", answers(images, student), 4.0),
            engine("teacher", answers(images, teacher), 20.0),
        ]
        return about(judge(measurements(engines, images), Prices()), "accuracy")

    assert verdict(80, 80, 800).answer == "yes"
    lost = verdict(160, 80, 800)
    assert lost.answer == "no" and lost.numbers["difference"] == pytest.approx(-0.1)
    assert "loses 10.0 points" in lost.text
    assert verdict(11, 10, 100).answer == "unclear"


def test_the_front_has_no_engine_that_another_beats(report: Report) -> None:
    on = {name for name, result in report.results.engines.items() if result.pareto}
    assert on == {"onnxruntime:fp16", "onnxruntime:int8", "teacher"}
    pareto = about(report, "pareto")
    assert pareto.answer == "yes" and pareto.numbers.keys() == on


def test_an_engine_off_the_front_by_noise_alone_is_told() -> None:
    images = image_set()
    same = answers(images, 80)
    engines = [
        engine("onnxruntime:fp32", same, 4.0, noise=0.001),
        engine("openvino:fp32", same, 4.1, noise=0.001),
        engine("torch:fp32", same, 9.0, noise=0.001),
    ]
    pareto = about(judge(measurements(engines, images), PRICES), "pareto")
    assert pareto.numbers.keys() == {"onnxruntime:fp32"}
    assert pareto.text.endswith(": openvino:fp32.")


def test_a_wrong_engine_is_called_wrong_and_never_wins() -> None:
    images = image_set()
    right = answers(images, 80)
    shuffled = {
        name: Predictions(labels=p.labels[::-1], confidence=p.confidence) for name, p in right.items()
    }
    engines = [
        engine("torch:fp32", right, 8.0),
        engine("onnxruntime:fp32", right, 4.0),
        engine("openvino:fp32", shuffled, 0.5),
    ]
    report = judge(measurements(engines, images), PRICES)
    wrong = about(report, "parity", "WRONG")
    assert wrong.answer == "no" and wrong.numbers.keys() == {"openvino:fp32", "least"}
    assert report.results.primary == "onnxruntime:fp32"
    assert not report.results.engines["openvino:fp32"].pareto
    right = about(report, "parity", "onnxruntime:fp32")
    assert right.answer == "yes" and right.numbers == {"onnxruntime:fp32": 1.0}


def test_nothing_is_worth_it_beside_a_wrong_fp32() -> None:
    images = image_set()
    right = answers(images, 80)
    engines = [
        engine("torch:fp32", right, 8.0),
        engine("openvino:fp32", answers(images, 300), 4.0),
        engine("openvino:int8", right, 2.0),
    ]
    report = judge(measurements(engines, images), PRICES)
    assert about(report, "parity", "openvino:fp32 is WRONG")
    assert "int8" not in {verdict.about for verdict in report.results.verdicts}


def test_a_label_or_two_on_few_images_proves_nothing() -> None:
    images = image_set(40)
    engines = [
        engine("torch:fp32", answers(images, 8), 8.0),
        engine("onnxruntime:fp32", answers(images, {"clip art": 8, "photo": 8, "sketch": 9}), 4.0),
    ]
    report = judge(measurements(engines, images), PRICES)
    assert [v.answer for v in report.results.verdicts if v.about == "parity"] == ["yes"]


def test_engines_that_failed_or_are_not_there_are_named_with_the_reason() -> None:
    m = usual()
    empty: dict[str, Any] = {"cells": [], "processes": []}
    extra = [
        engine("openvino:fp32", {}, 1.0, status="failed", reason="stalled while loading", **empty),
        engine("onnxruntime:fp32@cuda", {}, 1.0, status="unavailable", reason="no CUDA", **empty),
        engine("onnxruntime:fp16@cuda", {}, 1.0, status="unavailable", reason="no CUDA", **empty),
    ]
    report = judge(m.model_copy(update={"engines": [*m.engines, *extra]}), PRICES)
    assert about(report, "failed").text == "openvino:fp32: stalled while loading."
    assert about(report, "unavailable").text == "onnxruntime:fp32@cuda and onnxruntime:fp16@cuda: no CUDA."
    assert "openvino:fp32" not in report.results.engines


def test_an_engine_of_another_provider_is_held_against_its_own_fp32() -> None:
    images = image_set()
    same = answers(images, 80)
    gpu = [ProcessFacts(threads=2, provider="CUDA", load_s=1.0, peak_rss_bytes=None, versions={})]
    engines = [
        engine("onnxruntime:fp32", same, 4.0),
        engine("onnxruntime:fp32@cuda", same, 1.0, processes=gpu),
        engine("onnxruntime:fp16@cuda", same, 0.9, processes=gpu),
    ]
    report = judge(measurements(engines, images, scenario=Scenario(rounds=10)), Prices())
    assert about(report, "fp16").numbers["against"] == "onnxruntime:fp32@cuda"
    assert about(report, "fp16").answer == "no"  # 1.1 times its own kind, not 4.4 times the processor
