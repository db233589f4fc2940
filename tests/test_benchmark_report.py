"""What a report says in words: the verdict, and the warnings beside it."""

from __future__ import annotations

from typing import Any

import pytest

from vl2v_deploy.benchmark.render import warnings
from vl2v_deploy.benchmark.report import verdict


def row(accuracy: float, usd: float | None, *, images_per_s: float | None = 100.0) -> dict[str, Any]:
    ood = {"domain": "sketch", "accuracy": accuracy, "low": accuracy - 0.06, "high": accuracy + 0.06}
    speed = {"images_per_s": images_per_s, "p50_ms": 10.0, "mean_ms": 11.0}
    return {"measured": images_per_s is not None, "ood": ood, "usd_per_million": usd, **speed}


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (0.95, "keeps 90.0 (95 % interval 84.0 to 96.0) of the teacher's 95.0 points of OOD accuracy"),
        (0.85, "has 90.0 points (95 % interval 84.0 to 96.0) of OOD accuracy on 'sketch', level with the"),
        (0.60, "of OOD accuracy on 'sketch', above the teacher's 60.0, and costs"),
    ],
)
def test_verdict_calls_a_gain_a_gain_only_beyond_its_interval(teacher: float, words: str) -> None:
    assert words in verdict({"student": row(0.9, 1.0), "teacher": row(teacher, 1500.0)})


def test_verdict_says_what_is_saved_or_not() -> None:
    student = row(0.9, 2.0)
    assert "costs 1/750 as much ($2.00 against $1,500 per" in verdict(
        {"student": student, "teacher": row(1.0, 1500.0)}
    )
    assert "costs 4 times as much" in verdict({"student": student, "teacher": row(1.0, 0.5)})
    unpriced = {"student": row(0.9, None), "teacher": row(1.0, None, images_per_s=8.0)}
    assert "labels 12.5 times as many images a second (100 against 8)" in verdict(unpriced)


def test_verdict_claims_nothing_of_a_teacher_it_has_not_timed_or_has_not() -> None:
    student, recorded = row(0.9, None), row(1.0, None, images_per_s=None)
    said = verdict({"student": student, "teacher": recorded})
    assert said.endswith("of the teacher's recorded 100.0 points of OOD accuracy on 'sketch'.")
    alone = verdict({"student": student})
    assert alone == "The student has 90.0 points of OOD accuracy on 'sketch' (95 % interval 84.0 to 96.0)."


def report(**changes: Any) -> dict[str, Any]:
    provenance = {"distilled_teacher": "a", "teacher": "a", "distilled_data": "1", "data": "1"}
    return {
        "summary": {"student": row(0.9, None) | changes.pop("student", {})},
        "options": {"max_images": 6},
        "data": {"subsampled": False, "skipped": []} | changes.pop("data", {}),
        "provenance": provenance | changes,
    }


def test_nothing_to_warn_of_gives_no_warning() -> None:
    assert warnings(report()) == []
    assert warnings(report(distilled_teacher=None, distilled_data=None)) == []  # an older bundle
    assert warnings(report(teacher=None)) == []  # not measured


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distilled_data": "2"}, "the student may have been trained on some of them"),
        ({"distilled_teacher": "b"}, "a was measured, the student was distilled from b."),
        ({"data": {"subsampled": True}}, "Subsampled: accuracy is of at most 6 images a domain"),
        ({"data": {"skipped": ["x.png", "y.png"]}}, "2 images that do not decode were left out"),
        ({"student": {"mean_ms": 16.0}}, "mean latency of student (16 ms) is far above its median (10 ms)"),
    ],
)
def test_what_misleads_is_told(changes: dict[str, Any], words: str) -> None:
    (warning,) = warnings(report(**changes))
    assert words in warning
