"""benchmarks/cascade.py: the rules against their formulas, and the study of made-up students."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import cascade
from benchmarks.cascade import Studied, class_statistics, main, scores
from tests.helpers.cascade_measurements import STUDENT, TEACHER, cascade_measurements
from vl2v_deploy.benchmarking.cascade.calibrate import answered_sets, teacher_temperature
from vl2v_deploy.benchmarking.cascade.choose import JOININGS, SHARES


def made_up(name: str, teacher_noise: float, *, knows: bool = False) -> Studied:
    """A student with a rule 'knows' that is right about where it errs, or that is blind."""
    m = cascade_measurements(teacher_noise, 2.0, n=120, n_validation=120)
    assert m.answers is not None
    temperature = teacher_temperature(m.answers, TEACHER, m.images.validation)
    validation, measured = (
        answered_sets(m.answers, STUDENT, TEACHER, part, of, temperature)  # type: ignore[arg-type]
        for part, of in (("validation", m.images.validation), ("measured", m.images.domains))
    )
    unsure = {
        part: {
            "max_probability": {d: 1 - one.student.max(1) for d, one in sets.items()},
            "knows": {
                d: (~one.student_hits()).astype(float) if knows else np.zeros(len(one.labels))
                for d, one in sets.items()
            },
        }
        for part, sets in (("validation", validation), ("measured", measured))
    }
    classes = tuple(m.bundle.classes)
    return Studied(name, "sketch", "int8", classes, temperature, validation, measured, unsure)  # type: ignore[arg-type]


def test_rules_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    embedding, labels = rng.standard_normal((60, 5)), np.arange(60) % 3
    means, inverse = class_statistics(embedding, labels)
    np.testing.assert_allclose(means[1], embedding[1::3].mean(0))
    logits = rng.standard_normal((3, 3))
    found = scores(logits, means, (means, inverse), logits + np.array([[3.0], [0.0], [-1.0]]))
    np.testing.assert_allclose(found["energy"], -np.log(np.exp(logits).sum(1)))
    np.testing.assert_allclose(found["mahalanobis"], 0, atol=1e-9)  # each is its own class's mean
    np.testing.assert_allclose(found["cosine"], 1 - np.linalg.norm(means, axis=1))
    np.testing.assert_allclose(found["precisions"], 0, atol=1e-6)  # a constant changes no probability
    one = (embedding[:1] - means[2]) @ inverse @ (embedding[:1] - means[2]).T
    assert scores(logits[:1], embedding[:1], (means, inverse), None)["mahalanobis"][0] <= one.item() + 1e-9


def test_the_study_compares_rules_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    students = {"good": made_up("good", 1.0, knows=True), "blind": made_up("blind", 1.0)}
    for name in students:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    monkeypatch.setattr(cascade, "open_bundle", lambda path: path)
    monkeypatch.setattr(cascade, "studied", lambda bundle, name: students[name])
    result = CliRunner().invoke(
        main, [str(tmp_path / "good"), str(tmp_path / "blind"), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out/cascade.json").read_text())
    assert [one["name"] for one in told["students"]] == ["good", "blind"]
    curve = told["students"][0]["curve"]
    assert len(curve) == len(SHARES) and curve[0]["share_ood"] == 0.0 and curve[-1]["share_ood"] > 0.99
    sketch = students["good"].measured["sketch"]
    assert curve[0]["ood"] == sketch.student_hits().mean()
    rules = {(row["rule"], row["joining"]): row for row in told["rules"]}
    assert len(rules) == 2 * len(JOININGS)
    assert rules["max_probability", "teacher 0"]["ood_gain"] == 0.0
    # of the two students one has a rule that knows its errors, and gains by it
    knows = rules["knows", "teacher 0"]
    assert knows["students"] == 2 and knows["ood_wins"] == 1
    areas = [one["areas"]["knows, teacher 0"]["ood"] for one in told["students"]]
    usual = [one["areas"]["max_probability, teacher 0"]["ood"] for one in told["students"]]
    assert areas[0] > usual[0] and areas[1] < usual[1]
    assert "<svg" in (tmp_path / "out/cascade.svg").read_text()
