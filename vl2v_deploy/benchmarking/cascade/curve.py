"""Accuracy against the share of images that is sent to the teacher, least sure first; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.cascade.policy import (
    CascadePolicy,
    Combine,
    Deferral,
    Floats,
    asks_teacher,
    joined,
    unsureness,
)

Hits: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answered:
    """One domain's images with the answers of both.

    labels:           (N,) class indices
    groups:           group of each image
    student, teacher: (N, K) calibrated probabilities
    """

    labels: npt.NDArray[np.int64]
    groups: Sequence[str]
    student: Floats
    teacher: Floats

    def student_hits(self) -> Hits:
        """(N,) whether the student is right."""
        right: Hits = self.student.argmax(1) == self.labels
        return right

    def joined_hits(self, combine: Combine, student_weight: float) -> Hits:
        """(N,) whether the joined answer is right, had both been asked about every image."""
        answer = joined(self.student, self.teacher, combine, student_weight)
        right: Hits = answer.argmax(1) == self.labels
        return right

    def followed(self, policy: CascadePolicy, classes: Sequence[str]) -> tuple[Hits, Hits]:
        """(N,) whether the cascade is right, and whether the teacher was asked, under a policy."""
        asked = asks_teacher(self.student, policy, classes)
        joined_hits = self.joined_hits(policy.combine, policy.student_weight)
        right: Hits = np.where(asked, joined_hits, self.student_hits())
        return right, asked


@dataclass(frozen=True)
class Curve:
    """A cascade at every threshold that makes a difference, from asking never to asking always.

    share:     (P,) of images sent to the teacher, rising from 0 to 1; mean over the domains
    accuracy:  (P,) mean over the domains
    threshold: (P,) the teacher is asked where unsureness is above it, and at 0 about every image
    """

    share: Floats
    accuracy: Floats
    threshold: Floats

    def area(self, most: float = 1.0) -> float:
        """Mean accuracy over the shares from 0 to `most`, in (0, 1]: the area under the curve over its width.

        >>> Curve(np.array([0.0, 0.5, 1.0]), np.array([0.5, 1.0, 1.0]), np.zeros(3)).area()
        0.875
        """
        inside = self.share < most
        shares = np.append(self.share[inside], most)
        accuracy = np.append(self.accuracy[inside], np.interp(most, self.share, self.accuracy))
        return float(np.trapezoid(accuracy, shares)) / most


def curve_from_ranks(
    unsure: Mapping[str, Floats], student_hits: Mapping[str, Hits], joined_hits: Mapping[str, Hits]
) -> Curve:
    """The curve of images in the order of `unsure`, with one threshold for all domains, each of which counts
    the same.

    unsure:                    (N,) of each domain; the largest is asked about first
    student_hits, joined_hits: (N,) of each domain, whether each answer is right

    Images that are equally unsure are asked about together.
    """
    domains = list(unsure)
    weight = np.concatenate([np.full(len(unsure[d]), 1 / len(domains) / len(unsure[d])) for d in domains])
    student = np.concatenate([student_hits[d] for d in domains]).astype(np.float64)
    both = np.concatenate([joined_hits[d] for d in domains]).astype(np.float64)
    order = np.argsort(-np.concatenate([unsure[d] for d in domains]), kind="stable")
    ranked = np.concatenate([unsure[d] for d in domains])[order]
    last = np.append(ranked[1:] < ranked[:-1], True)  # of images that are equally unsure
    share = np.cumsum(weight[order])[last]
    accuracy = (weight * student).sum() + np.cumsum((weight * (both - student))[order])[last]
    # Half way to the next image, so that rounding changes nobody's side. All images of these are asked about
    # at the last one: it is 0, which asks about every other image too.
    threshold = np.append((ranked[last][:-1] + ranked[last][1:]) / 2, 0.0)
    return Curve(
        np.append(0.0, np.round(share / share[-1], 12)),
        np.append((weight * student).sum(), accuracy),
        np.append(1.0, threshold),
    )


def curve_of(
    sets: Mapping[str, Answered], deferral: Deferral, combine: Combine, student_weight: float
) -> Curve:
    """The curve of a deferral rule and a way of joining over some domains."""
    return curve_from_ranks(
        {name: unsureness(one.student, deferral) for name, one in sets.items()},
        {name: one.student_hits() for name, one in sets.items()},
        {name: one.joined_hits(combine, student_weight) for name, one in sets.items()},
    )
