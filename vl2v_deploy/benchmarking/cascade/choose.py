"""A cascade's policy, chosen on source validation alone, by the mean over the source domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb
from typing import NamedTuple

import numpy as np

from vl2v_deploy.benchmarking.cascade.curve import Answered, Curve, curve_of
from vl2v_deploy.benchmarking.cascade.standard_error import standard_error
from vl2v_deploy.client.cascade.policy import (
    CascadePolicy,
    Combine,
    Deferral,
    Floats,
    asks_teacher,
    is_unsure,
    unsureness,
)

# The first is taken unless another one is better by WORTH.
DEFERRALS: tuple[Deferral, ...] = ("max_probability", "margin", "entropy")
JOININGS: tuple[tuple[Combine, float], ...] = (
    ("mixed", 0.25),
    ("mixed", 0.5),
    ("mixed", 0.75),
    ("more_confident", 0.5),
    ("teacher", 0.0),
)
# Promised shares of images that are sent to the teacher.
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Rules are compared up to this share: who sends more than half of the images hardly needs the student.
AREA_TO = 0.5
# Another than the first must gain so much area: less is noise, with a few hundred images.
WORTH = 0.005
# Of what asking can gain: the rest takes about as many queries again.
SHARE_OF_GAIN = 0.75
# A class is left out where the teacher's loss there is beyond chance (one-sided sign test).
CLASS_LEVEL = 0.01


class Candidate(NamedTuple):
    """A deferral rule with a way of joining; `area` is on source validation, to AREA_TO."""

    deferral: Deferral
    combine: Combine
    student_weight: float
    area: float


class ShareChoice(NamedTuple):
    """The share of source validation that is to be sent to the teacher, beside the most accurate one.

    gain:           accuracy there that the best share adds to the student's
    lost:           accuracy there that the best share has more than the chosen one
    standard_error: of `gain`, over groups of images
    """

    share: float
    best: float
    gain: float
    lost: float
    standard_error: float


def candidates_of(validation: Mapping[str, Answered]) -> list[Candidate]:
    """Every deferral rule with every way of joining, the best first; of equals, the first of the lists."""
    found = [
        Candidate(deferral, combine, weight, curve_of(validation, deferral, combine, weight).area(AREA_TO))
        for combine, weight in JOININGS
        for deferral in DEFERRALS
    ]
    return sorted(found, key=lambda one: -round(one.area, 9))


def chosen_rule(candidates: Sequence[Candidate]) -> Candidate:
    """The way of joining is chosen first, under the first deferral rule, then the deferral rule under that
    joining; each is the first of its list unless another gains WORTH.
    """
    held = {(one.deferral, (one.combine, one.student_weight)): one for one in candidates}
    deferral, joining = DEFERRALS[0], JOININGS[0]
    best = max(JOININGS, key=lambda one: held[deferral, one].area)
    if held[deferral, best].area >= held[deferral, joining].area + WORTH:
        joining = best
    surer = max(DEFERRALS, key=lambda one: held[one, joining].area)
    if held[surer, joining].area >= held[deferral, joining].area + WORTH:
        deferral = surer
    return held[deferral, joining]


def point_at(curve: Curve, share: float) -> int:
    """Index of the last point whose share is at most `share`: what is promised is kept on these images."""
    return int(np.searchsorted(curve.share, share + 1e-9, side="right")) - 1


def chosen_share(validation: Mapping[str, Answered], rule: Candidate, most: float = 1.0) -> ShareChoice:
    """The smallest share that brings SHARE_OF_GAIN of what asking can gain on source validation.

    0 where the gain of the best share is within its own standard error. The curve is flat near its top and
    its highest point an accident of a few hundred images, while every image that is sent costs money.

    rule: how images are deferred and answers joined
    most: the largest share that may be chosen, in [0, 1]
    """
    curve = curve_of(validation, rule.deferral, rule.combine, rule.student_weight)
    hits = {
        share: _hits_at(validation, rule, float(curve.threshold[point_at(curve, share)]))
        for share in sorted({share for share in (*SHARES, most) if share <= most})
    }
    accuracy = {share: float(np.mean([one.mean() for one in of])) for share, of in hits.items()}
    gains = {share: round(accuracy[share] - accuracy[0.0], 9) for share in hits}
    best = max(hits, key=lambda share: (gains[share], -share))
    changes = [there - alone for there, alone in zip(hits[best], hits[0.0], strict=True)]
    error = standard_error(changes, [one.groups for one in validation.values()])
    least = round(SHARE_OF_GAIN * gains[best], 9) if gains[best] > error else 0.0
    share = next(share for share in hits if gains[share] >= least)
    return ShareChoice(share, best, gains[best], gains[best] - gains[share], error)


def _hits_at(validation: Mapping[str, Answered], rule: Candidate, threshold: float) -> list[Floats]:
    """Of each domain (N,), 1 where the cascade is right at this threshold and 0 where it is wrong."""
    found = []
    for one in validation.values():
        asked = is_unsure(unsureness(one.student, rule.deferral), threshold)
        right = np.where(asked, one.joined_hits(rule.combine, rule.student_weight), one.student_hits())
        found.append(right.astype(np.float64))
    return found


def policy_from_validation(
    validation: Mapping[str, Answered],
    classes: Sequence[str],
    teacher_temperature: float,
    best: Candidate,
    share: float,
) -> CascadePolicy:
    """The policy of a candidate that sends `share` of source validation, or just less, to the teacher.

    validation:          of each source domain
    teacher_temperature: by which the teacher's logits were divided
    """
    curve = curve_of(validation, best.deferral, best.combine, best.student_weight)
    index = point_at(curve, share)
    policy = CascadePolicy(
        deferral=best.deferral,
        threshold=float(curve.threshold[index]),
        combine=best.combine,
        student_weight=best.student_weight,
        teacher_temperature=teacher_temperature,
        share=float(curve.share[index]),
    )
    never = classes_where_teacher_loses(validation, classes, policy)
    if not never:
        return policy
    return with_never(policy, never, validation, classes)


def with_never(
    policy: CascadePolicy, never: Sequence[str], validation: Mapping[str, Answered], classes: Sequence[str]
) -> CascadePolicy:
    """The policy that does not ask about these classes, with the share that is left."""
    changed = replace(policy, never=tuple(never))
    asked = [asks_teacher(one.student, changed, classes).mean() for one in validation.values()]
    return replace(changed, share=float(np.mean(asked)))


def classes_where_teacher_loses(
    validation: Mapping[str, Answered], classes: Sequence[str], policy: CascadePolicy
) -> tuple[str, ...]:
    """Classes of the student's answers where asking lost more images than it won, beyond chance."""
    won = np.zeros(len(classes), int)
    lost = np.zeros(len(classes), int)
    for one in validation.values():
        asked = asks_teacher(one.student, policy, classes)
        before, after = one.student_hits(), one.joined_hits(policy.combine, policy.student_weight)
        predicted = one.student.argmax(1)
        won += np.bincount(predicted[asked & after & ~before], minlength=len(classes))
        lost += np.bincount(predicted[asked & before & ~after], minlength=len(classes))
    return tuple(
        name
        for name, w, n in zip(classes, won, won + lost, strict=True)
        if _sign_test(int(w), int(n)) <= CLASS_LEVEL
    )


def _sign_test(won: int, n: int) -> float:
    """P(at most `won` heads of n fair tosses)."""
    return float(sum(comb(n, k) for k in range(won + 1)) / 2**n)
