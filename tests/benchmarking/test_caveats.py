"""What a report warns of: other data or teacher, few or noisy samples, old prices."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.measurements import answers, cell, engine, image_set, measurements, usual
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.schema import Measurements, Prices
from vl2v_deploy.client.manifest import RunAccuracy

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)


def changed(**changes: Any) -> list[str]:
    m = usual()
    for name in ("images", "provenance", "scenario"):
        if name in changes:
            changes[name] = getattr(m, name).model_copy(update=changes[name])
    return judge(m.model_copy(update=changes), PRICES).results.warnings


def test_nothing_to_warn_of_gives_no_warning() -> None:
    assert changed() == []
    assert changed(provenance={"distilled_teacher": None, "distilled_data": None}) == []  # an older bundle
    assert changed(provenance={"teacher": None}) == []  # not measured


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provenance": {"distilled_data": "2"}}, "the student may have been trained on some of them"),
        ({"provenance": {"distilled_teacher": "b"}}, "a was measured, the student was distilled from b."),
        ({"images": {"skipped": ["x.png", "y.png"]}}, "2 images that cannot be used were skipped"),
        ({"scenario": {"rounds": 2}}, "Few rounds: 2 say little"),
        ({"notes": ["No roofline: no peak was measured."]}, "No roofline: no peak was measured."),
    ],
)
def test_what_misleads_is_told(changes: dict[str, Any], words: str) -> None:
    (warning,) = changed(**changes)
    assert words in warning


def one_engine(**changes: Any) -> Measurements:
    images = image_set()
    return measurements([engine("onnxruntime:fp32", answers(images, 80), 4.0, **changes)], images)


def test_noise_and_few_samples_are_told() -> None:
    def said(**changes: Any) -> list[str]:
        return judge(one_engine(cells=[cell(0.004, **changes)]), PRICES).results.warnings

    (noisy,) = said(rounds_s=[[0.004] * 15 + [0.4] * 5] * 4)
    assert "far above the median of onnxruntime:fp32 (103 against 4 ms)" in noisy
    (few,) = said(rounds=4, per_round=2)
    assert "too few for a median latency of onnxruntime:fp32" in few
    (unsteady,) = said(steady=False)
    assert "warm-up of onnxruntime:fp32 reached its time limit" in unsteady


def test_subsampled_images_are_told() -> None:
    m = one_engine()
    domains = {name: d.model_copy(update={"of": 4000}) for name, d in m.images.domains.items()}
    report = judge(m.model_copy(update={"images": m.images.model_copy(update={"domains": domains})}), PRICES)
    assert report.results.warnings == [
        "Subsampled: accuracy is of at most 400 images per domain, not of all."
    ]


def test_an_accuracy_unlike_the_recorded_one_on_the_same_images_is_told() -> None:
    m = one_engine()
    recorded = RunAccuracy("sketch", {"sketch": 0.83})
    m = m.model_copy(update={"bundle": m.bundle.model_copy(update={"recorded_accuracy": recorded})})
    (warning,) = judge(m, PRICES).results.warnings
    assert "manifest has 83.0 % OOD accuracy on the same images, onnxruntime:fp32 reached 80.0 %" in warning
    other = m.provenance.model_copy(update={"distilled_data": None})
    assert judge(m.model_copy(update={"provenance": other}), PRICES).results.warnings == []


def test_old_prices_are_told() -> None:
    old = Prices(usd_per_hour=1.0, dated="2026-01-01", source="prices.yaml of 2026-01-01: list")  # type: ignore[arg-type]
    (warning,) = judge(usual(), old).results.warnings
    assert "Old prices: those of 2026-01-01 are more than 180 days old" in warning
    assert judge(usual(), Prices(usd_per_hour=1.0, dated="2026-11-01")).results.warnings == []  # type: ignore[arg-type]
