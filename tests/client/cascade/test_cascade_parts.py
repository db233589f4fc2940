"""The parts of a cascade by themselves: who is unsure, the breaker, estimates, what teachers may answer."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.helpers.cascades import CLASSES
from vl2v_deploy.client.cascade.breaker import Breaker
from vl2v_deploy.client.cascade.decision import RunningShare
from vl2v_deploy.client.cascade.estimates import Estimate, estimate, weighted
from vl2v_deploy.client.cascade.tally import Tally
from vl2v_deploy.client.cascade.teacher import (
    TeacherAnswers,
    checked_answers,
    teacher_from_embeddings,
    tempered,
)
from vl2v_deploy.errors import TeacherError, UnknownRequest


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_a_running_share_is_kept_whatever_ties_there_are(share: float, ties: bool) -> None:
    draws = random.Random(3)
    rule = RunningShare(share, 200, draws.random)
    values = [round(draws.random(), 1) if ties else draws.random() for _ in range(8000)]
    real = np.mean([rule(value) for value in values])
    assert abs(real - share) < 4 * (share * (1 - share) / len(values)) ** 0.5 + 1e-12


def test_a_running_share_takes_the_most_unsure_and_follows_them() -> None:
    draws = random.Random(0)
    rule = RunningShare(0.2, 100, draws.random)
    before = [(value, rule(value)) for value in (draws.uniform(0.0, 0.5) for _ in range(2000))]
    assert min(value for value, asked in before[100:] if asked) > 0.3
    shifted = [rule(draws.uniform(0.5, 1.0)) for _ in range(2000)]  # a domain that is less sure
    assert sum(shifted[:100]) > 30
    assert abs(np.mean(shifted[200:]) - 0.2) < 0.04


def test_the_share_holds_from_the_first_image_on() -> None:
    first = [RunningShare(0.3, 10, random.Random(seed).random)(0.5) for seed in range(4000)]
    assert abs(np.mean(first) - 0.3) < 0.03


def test_an_open_breaker_lets_one_call_through_every_interval() -> None:
    breaker = Breaker(10.0)
    assert breaker.allows(0.0) and not breaker.is_open(0.0)
    breaker.failed(1.0)
    assert breaker.is_open(10.9) and not breaker.allows(10.9)
    assert not breaker.is_open(11.0)
    assert [breaker.allows(11.0), breaker.allows(11.0), breaker.allows(20.9)] == [True, False, False]
    assert breaker.allows(21.0)  # the try never came back
    breaker.succeeded()
    assert breaker.allows(21.0) and breaker.allows(21.0)


def test_an_estimate_narrows_to_nothing_as_the_sample_becomes_the_whole() -> None:
    widths = [found.high - found.low for found in (estimate(n // 10, n, 1000) for n in (50, 200, 800, 1000))]
    assert widths == sorted(widths, reverse=True) and widths[-1] == 0.0
    assert estimate(0, 0) == Estimate(None, 0.0, 1.0, 0)
    assert (estimate(0, 20).low, estimate(20, 20).high) == (0.0, 1.0)


def test_nothing_known_of_a_part_is_said_so() -> None:
    found = weighted([(3, estimate(0, 40, 40)), (1, estimate(0, 0))])
    assert (found.share, found.low, found.high) == (None, 0.0, 0.25)
    assert weighted([]).share is None


@pytest.mark.parametrize("audit_rate", [0.05, 0.3])
def test_the_audits_estimate_of_disagreement_is_unbiased_and_its_interval_covers(audit_rate: float) -> None:
    """Confident images differ in 3 %, unsure ones in 50 %: a mean of all answers would be far off."""
    rng = np.random.default_rng(0)
    shares, covered = [], 0
    for _ in range(200):
        tally = Tally(CLASSES, 0)
        differ_n = 0
        for number in range(500):
            unsure = rng.random() < 0.2
            differs = bool(rng.random() < (0.5 if unsure else 0.03))
            differ_n += differs
            record = tally.begin(str(number), "unsure" if unsure else "confident", 0)
            if unsure or rng.random() < audit_rate:
                tally.teacher_answered(record, int(differs))
        found = tally.disagreement().overall
        assert found.share is not None
        shares.append(found.share - differ_n / 500)
        covered += found.low <= differ_n / 500 <= found.high
    assert abs(np.mean(shares)) < 3 * np.std(shares) / 14
    assert covered / 200 > 0.93


def test_disagreement_by_class_counts_what_the_student_says() -> None:
    tally = Tally(CLASSES, 10)
    for number, (student, teacher) in enumerate([(0, 0), (0, 1), (2, 2)]):
        tally.teacher_answered(tally.begin(str(number), "unsure", student), teacher)
    found = tally.disagreement()
    assert {name: part.share for name, part in found.by_class.items()} == {"cat": 0.5, "owl": 0.0}
    assert found.asked == {"unsure": 3, "confident": 0}


def test_labels_count_by_part_and_a_second_one_replaces_the_first() -> None:
    tally = Tally(CLASSES, 100)
    for number in range(30):  # 10 unsure, of which the teacher is right; 20 confident, of which none is
        unsure = number < 10
        record = tally.begin(str(number), "unsure" if unsure else "confident", 0)
        if unsure:
            tally.teacher_answered(record, 1)
        tally.finish(record, int(unsure), "teacher" if unsure else "student", "unsure")
    for number in range(10):
        tally.label(str(number), 0)
        tally.label(str(number), 1)
    tally.label("29", 0)
    found = tally.accuracy()
    assert (found.labels, found.by["teacher"].share, found.by["student"].share) == (11, 1.0, 1.0)
    assert found.student.share == pytest.approx(2 / 3)  # not 1/11: a part counts by its size
    assert found.cascade.share == 1.0
    assert found.teacher.share is None  # it never answered a confident image
    tally.teacher_answered(tally._records["29"], 2)  # an audit that comes after the label
    assert tally.accuracy().teacher.share == pytest.approx(1 / 3)


def test_memory_is_bounded_and_who_is_forgotten_is_said() -> None:
    tally = Tally(CLASSES, 3)
    for number in range(5):
        tally.begin(str(number), "confident", 0)
    assert (len(tally._records), tally.forgotten) == (3, 2)
    with pytest.raises(UnknownRequest, match=r"'1'.*remember=3"):
        tally.label("1", 0)
    assert tally.accuracy().labels == 0


@pytest.mark.parametrize(
    ("answer", "row"),
    [
        (np.array([[0.2, 0.5, 0.3]]), [0.2, 0.5, 0.3]),
        ([("dog", 0.8)], [0.1, 0.8, 0.1]),
        ([{"owl": 0.6, "cat": 0.3}], [0.3, 0.1, 0.6]),
        ([{"owl": 1.0}], [0.0, 0.0, 1.0]),
        (TeacherAnswers(np.array([[0.2, 0.2, 0.6]])), [0.2, 0.2, 0.6]),
    ],
)
def test_answers_become_probabilities_of_all_classes(answer: Any, row: list[float]) -> None:
    np.testing.assert_allclose(checked_answers(answer, CLASSES, 1).probabilities, [row], atol=1e-12)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.array([[0.5, 0.5]]), r"\(1, 2\) where \(1, 3\)"),
        (np.array([[0.2, 0.2, 0.2]]), "sum 1"),
        (np.array([[np.nan, 0.5, 0.5]]), "sum 1"),
        (np.array([[-0.2, 0.6, 0.6]]), "from 0 to 1"),
        ([("dgo", 0.8)], "did you mean 'dog'"),
        ([("dog", 0.1)], "less than what is left"),
        ([], r"\(0, 3\) where \(1, 3\)"),
        (None, "NoneType"),
        ([3], "int"),
        (TeacherAnswers(np.array([[0.2, 0.2, 0.6]]), np.zeros((2, 4), np.float32)), "2 embeddings"),
    ],
)
def test_what_is_no_answer_is_refused(answer: Any, words: str) -> None:
    with pytest.raises(TeacherError, match=words):
        checked_answers(answer, CLASSES, 1)


def test_a_teacher_of_embeddings_classifies_by_cosine() -> None:
    texts = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    ask = teacher_from_embeddings(lambda images: np.array([[5.0, 0.0]] * len(images)), texts, 10.0)
    found = ask([b"x", b"y"])
    expected = np.exp([10.0, 0.0, 10.0 / 2**0.5])
    np.testing.assert_allclose(found.probabilities[1], expected / expected.sum())
    np.testing.assert_allclose(found.embeddings, [[1.0, 0.0]] * 2)
    with pytest.raises(TeacherError, match="zero"):
        teacher_from_embeddings(lambda _: np.zeros((1, 2)), texts, 10.0)([b"x"])


def test_a_temperature_divides_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    cooler = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(1, keepdims=True)
    np.testing.assert_allclose(tempered(softmax, 2.5), cooler)
