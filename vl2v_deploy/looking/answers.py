"""What a page of pictures is made from: the student's answers, and the teacher's where they are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vl2v_deploy.bulk.images import Image
from vl2v_deploy.client.answers import Floats, softmax
from vl2v_deploy.client.images import Limits, Pixels
from vl2v_deploy.recipe import Recipe

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float64]
NOBODY = -1  # in the place of a label or answer that is not known


@dataclass(frozen=True)
class Subject:
    """The student that is looked at.

    precision:     of the file that answers; fp32 of a run
    target:        the domain that was kept unseen, or none
    target_role:   what a table calls it
    logit_scale:   s of the teacher
    size_px:       S of the student
    draft:         see client.preprocess.pixels_from_source
    abstain_below: confidence under which it abstains; None = it never does
    usual_shares:  share of source validation that was given each class; None where it is not known
    fingerprint:   of the images that it was distilled from; None where it is not known
    answer:        uint8 (B, S, S, 3) -> logits (B, K), embeddings (B, D)
    """

    name: str
    kind: Literal["run", "bundle"]
    precision: str
    classes: tuple[str, ...]
    recipe: Recipe
    target: str
    target_role: str
    logit_scale: float
    size_px: int
    draft: bool
    abstain_below: float | None
    usual_shares: tuple[float, ...] | None
    fingerprint: str | None
    answer: Callable[[Pixels], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Answers:
    """N images and what was answered about each.

    domain:         (N,) index of its domain
    label:          (N,) its class, or NOBODY
    index:          (N,) the student's answer, with its confidence (N,) in [0, 1]
    second:         (N,) the student's second answer, with its confidence
    abstained:      (N,) whether the student is better not relied on
    embedding:      (N, D) of the student
    teacher:        (N,) the teacher's answer, or NOBODY; teacher_confidence is NaN then
    """

    images: tuple[Image, ...]
    domain: Ints
    label: Ints
    index: Ints
    confidence: Probabilities
    second: Ints
    second_confidence: Probabilities
    abstained: Bools
    embedding: Floats
    teacher: Ints
    teacher_confidence: Probabilities

    def __len__(self) -> int:
        return len(self.images)

    @property
    def right(self) -> Bools:
        """(N,) whether the student's answer is the label."""
        return np.asarray(self.index == self.label)

    @property
    def asked(self) -> Bools:
        """(N,) whether the teacher's answer is known."""
        return np.asarray(self.teacher != NOBODY)

    @property
    def teacher_right(self) -> Bools:
        """(N,) whether the teacher's answer is known and is the label."""
        return np.asarray(self.asked & (self.teacher == self.label))


@dataclass(frozen=True)
class Look:
    """All that the page shows.

    labelled: whether the classes of the images are known
    domains:  in the order in which they are shown, the target first; "" where there are none
    of:       by domain, how many images there are; fewer are looked at where a limit was given
    teacher:  its identity; None where it has answered nothing
    notes:    what the reader must know, such as which of the teacher's answers are missing
    failed:   images that cannot be used, each with the reason
    """

    subject: Subject
    labelled: bool
    domains: tuple[str, ...]
    of: Mapping[str, int]
    answers: Answers
    limits: Limits
    teacher: str | None = None
    notes: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = field(default=())

    def rows_of(self, domain: int) -> Ints:
        """Rows of the images of a domain."""
        return np.flatnonzero(self.answers.domain == domain)

    @property
    def has_target(self) -> bool:
        """Whether the first domain is one that the student was not trained on."""
        return self.labelled and self.domains[0] == self.subject.target


def two_best(logits: npt.NDArray[Any]) -> tuple[Ints, Probabilities, Ints, Probabilities]:
    """The two most probable classes of each row of logits (N, K), each (N,) with its probability (N,).

    >>> first, sure, second, less = two_best(np.array([[0.0, 0.0, -99.0], [-99.0, 0.0, 99.0]]))
    >>> first.tolist(), sure.tolist(), second.tolist()
    ([0, 2], [0.5, 1.0], [1, 1])
    """
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    first, second = order[:, 0], order[:, -1]
    rows = np.arange(len(order))
    return first, probabilities[rows, first], second, probabilities[rows, second]
