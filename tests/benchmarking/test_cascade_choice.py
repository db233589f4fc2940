"""Which share is chosen on source validation: the cheapest that is not shown to be worse than the best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vl2v_deploy.benchmarking.cascade.choose import SHARES, Candidate, chosen_share
from vl2v_deploy.benchmarking.cascade.curve import Answered, curve_of

RULE = Candidate("max_probability", "teacher", 0.0, 0.0)
N = 400


def answered(changes: dict[int, int]) -> Answered:
    """N images, the least sure first. The student is right about every other one of those that do not change.

    changes: place -> +1, the teacher is right about it and the student wrong, or -1, the other way round
    """
    labels = np.zeros(N, np.int64)
    student_right = np.arange(N) % 2 == 0
    teacher_right = student_right.copy()
    for place, change in changes.items():
        student_right[place], teacher_right[place] = change < 0, change > 0
    sure = np.linspace(0.55, 0.95, N)
    rows = np.stack([np.where(student_right, sure, 1 - sure), np.where(student_right, 1 - sure, sure)], 1)
    teacher = np.where(teacher_right[:, None], [0.9, 0.1], [0.1, 0.9])
    return Answered(labels, [str(place) for place in range(N)], rows, teacher)


def gains(first: int, last: int) -> dict[int, int]:
    return dict.fromkeys(range(first, last), 1)


def test_a_gain_within_the_error_of_the_best_is_not_paid_for() -> None:
    """40 images are won among the first 40; eight more later, 2 % with an error of 2.5 %."""
    found = chosen_share({"photo": answered(gains(0, 40) | gains(200, 208))}, RULE)
    assert (found.share, found.best) == (0.1, 0.6)
    assert found.lost == pytest.approx(8 / N) and found.lost <= found.standard_error
    right = answered(gains(0, 40) | gains(200, 208)).joined_hits("teacher", 0.0).mean()
    assert found.standard_error == pytest.approx((right * (1 - right) / N) ** 0.5, rel=0.01)


def test_a_gain_beyond_the_error_of_the_best_is_paid_for() -> None:
    found = chosen_share({"photo": answered(gains(0, 40) | gains(100, 120))}, RULE)
    assert 0.25 < found.share <= 0.3 == found.best and found.lost <= found.standard_error


def test_the_teacher_is_not_asked_where_the_best_gain_is_within_the_error() -> None:
    draw = {place: 1 if place % 2 else -1 for place in range(39)}  # 19 won, 20 lost
    found = chosen_share({"photo": answered(draw | {300: 1, 301: 1})}, RULE)
    assert found.share == 0.0 < found.best and 0 < found.lost <= found.standard_error
    nothing = chosen_share({"photo": answered({})}, RULE)
    assert (nothing.share, nothing.best, nothing.lost) == (0.0, 0.0, 0.0)


def test_groups_count_as_one_image() -> None:
    """The same gain is within the error where images that are right come in groups of four."""
    alone = answered(dict.fromkeys(range(0, 200, 3), 1))
    right = alone.joined_hits("teacher", 0.0)
    rank = np.where(right, np.cumsum(right), np.cumsum(~right))
    names = [f"{hit} {place // 4}" for hit, place in zip(right, rank, strict=True)]
    together = replace(alone, groups=names)
    found, grouped = chosen_share({"photo": alone}, RULE), chosen_share({"photo": together}, RULE)
    assert grouped.standard_error == pytest.approx(2 * found.standard_error, rel=0.05)
    assert grouped.share < found.share and grouped.best == found.best


@pytest.mark.parametrize("most", [0.0, 0.03, 0.12])
def test_no_more_is_chosen_than_is_paid_for(most: float) -> None:
    found = chosen_share({"photo": answered(gains(0, 100))}, RULE, most)
    assert found.best == most  # each image more is a gain
    assert found.share <= most and found.lost <= found.standard_error


def test_every_choice_is_the_smallest_share_within_the_error_of_the_best() -> None:
    """By brute force, with an error from 4,000 draws of groups."""
    rng = np.random.default_rng(4)
    sets = {}
    for domain in ("clip art", "photo"):
        rows = rng.dirichlet((4, 1, 1), size=150)
        teacher = rng.dirichlet((6, 1, 1), size=150)
        sets[domain] = Answered(np.zeros(150, np.int64), [str(n // 3) for n in range(150)], rows, teacher)
    found = chosen_share(sets, RULE)
    curve = curve_of(sets, "max_probability", "teacher", 0.0)

    def hits(share: float) -> list[np.ndarray]:
        place = max(p for p, s in enumerate(curve.share) if s <= share + 1e-9)
        threshold = curve.threshold[place]
        asked = [(1 - one.student.max(1) > threshold) | (threshold == 0) for one in sets.values()]
        pairs = zip(asked, sets.values(), strict=True)
        return [np.where(ask, one.teacher.argmax(1) == 0, one.student.argmax(1) == 0) for ask, one in pairs]

    accuracy = {share: np.mean([of.mean() for of in hits(share)]) for share in SHARES}
    assert accuracy[found.best] == pytest.approx(max(accuracy.values()))
    drawn = rng.integers(0, 50, size=(4000, 50))  # groups are in both domains
    by_group = np.stack([of.reshape(50, 3).mean(1) for of in hits(found.best)]).mean(0)
    assert found.standard_error == pytest.approx(by_group[drawn].mean(1).std(), rel=0.06)
    assert found.lost == pytest.approx(accuracy[found.best] - accuracy[found.share])
    assert found.lost <= found.standard_error
    for share in SHARES:
        if share < found.share:
            assert accuracy[found.best] - accuracy[share] > found.standard_error
