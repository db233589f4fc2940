"""Which share is chosen on source validation: the smallest that brings most of what asking can gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vl2v_deploy.benchmarking.cascade.choose import SHARE_OF_GAIN, SHARES, Candidate, chosen_share
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


def test_the_last_gains_are_not_paid_for() -> None:
    """40 images are won among the first 40, and eight more after 200 others."""
    found = chosen_share({"photo": answered(gains(0, 40) | gains(200, 208))}, RULE)
    assert (found.share, found.best) == (0.1, 0.6)
    assert found.gain == pytest.approx(48 / N) and found.lost == pytest.approx(8 / N)


def test_gains_that_are_spread_are_paid_for() -> None:
    found = chosen_share({"photo": answered(gains(0, 40) | gains(100, 130))}, RULE)
    assert 0.25 < found.share <= 0.3 < found.best
    assert found.gain - found.lost >= SHARE_OF_GAIN * found.gain == pytest.approx(SHARE_OF_GAIN * 70 / N)


def test_the_teacher_is_not_asked_where_the_best_gain_is_within_its_error() -> None:
    draw = {place: 1 if place % 2 else -1 for place in range(39)}  # 19 won, 20 lost
    found = chosen_share({"photo": answered(draw | {300: 1, 301: 1})}, RULE)
    assert found.share == 0.0 < found.best and 0 < found.gain == found.lost <= found.standard_error
    nothing = chosen_share({"photo": answered({})}, RULE)
    assert (nothing.share, nothing.best, nothing.gain, nothing.lost) == (0.0, 0.0, 0.0, 0.0)


def test_a_small_gain_that_is_beyond_its_error_is_paid_for() -> None:
    """Ten images of 400 are won and none lost: the error of either accuracy alone is as large."""
    found = chosen_share({"photo": answered(gains(0, 10))}, RULE)
    assert found.gain == pytest.approx(10 / N) and found.share == 0.02
    right = answered({}).student_hits().mean()
    assert found.gain <= (right * (1 - right) / N) ** 0.5 and found.standard_error < found.gain / 2


def test_groups_count_as_one_image() -> None:
    """The same gain is within its error where all images that are won are of one group."""
    alone = answered(gains(0, 3))
    together = replace(alone, groups=["one"] * 3 + list(alone.groups[3:]))
    found, grouped = chosen_share({"photo": alone}, RULE), chosen_share({"photo": together}, RULE)
    assert grouped.standard_error == pytest.approx(3**0.5 * found.standard_error, rel=0.01)
    assert found.share > 0 and grouped.gain == found.gain
    of_one = chosen_share({"photo": replace(answered(gains(0, 1)), groups=alone.groups)}, RULE)
    assert of_one.gain <= of_one.standard_error * (1 + 1 / N) and of_one.share in (0.0, 0.01)


@pytest.mark.parametrize("most", [0.0, 0.03, 0.12])
def test_no_more_is_chosen_than_is_paid_for(most: float) -> None:
    found = chosen_share({"photo": answered(gains(0, 100))}, RULE, most)
    assert found.best == most  # each image more is a gain
    assert SHARE_OF_GAIN * most <= found.share <= most


def test_every_choice_is_the_smallest_share_with_most_of_the_gain() -> None:
    """By brute force, with an error from 4,000 draws of groups."""
    rng = np.random.default_rng(4)
    sets = {}
    for domain in ("clip art", "photo"):
        rows = rng.dirichlet((4, 1, 1), size=150)
        teacher = rng.dirichlet((9, 1, 1), size=150)
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
    gains = {share: accuracy[share] - accuracy[0.0] for share in SHARES}
    assert found.gain == pytest.approx(max(gains.values())) == pytest.approx(gains[found.best])
    drawn = rng.integers(0, 50, size=(4000, 50))  # groups are in both domains
    change = [both.astype(float) - alone for both, alone in zip(hits(found.best), hits(0.0), strict=True)]
    by_group = np.stack([of.reshape(50, 3).mean(1) for of in change]).mean(0)
    assert found.standard_error == pytest.approx(by_group[drawn].mean(1).std(), rel=0.06)
    assert found.lost == pytest.approx(gains[found.best] - gains[found.share])
    assert found.gain > found.standard_error and found.share > 0
    for share in SHARES:
        assert (gains[share] >= SHARE_OF_GAIN * found.gain - 1e-9) <= (share >= found.share)
