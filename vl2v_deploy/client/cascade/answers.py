"""What a cascade answers about one image: which label, whose it is, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from vl2v_deploy.client.answers import Prediction
from vl2v_deploy.client.cascade.policy import Floats

By: TypeAlias = Literal["student", "teacher", "joined"]
# confident     the student is sure enough; the teacher was not asked
# audit         the student is sure enough; the teacher is asked in the background, for the audit alone
# unsure        the student is unsure, and the teacher answered
# never         the teacher is not asked about this class or image, however unsure the student is
# The student is unsure, but the teacher's answer is not to be had:
# budget        the budget of the day is spent, or its file cannot be written
# busy          too many images wait for the teacher
# slow          the teacher did not answer in time
# teacher_error the teacher failed; `problem` says how
# breaker_open  the teacher failed a moment ago and is left alone for min_interval_s
Reason: TypeAlias = Literal[
    "confident",
    "audit",
    "unsure",
    "never",
    "budget",
    "busy",
    "slow",
    "teacher_error",
    "breaker_open",
]
# Where the teacher was to be asked and could not answer.
UNAVAILABLE: frozenset[Reason] = frozenset(("busy", "slow", "teacher_error", "breaker_open"))


@dataclass(frozen=True, slots=True)
class TeacherPrediction:
    """The teacher's answer to one image, at the policy's temperature; fields as of Prediction."""

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class CascadePrediction:
    """A cascade's answer to one image.

    label, index, probability, top: as of Prediction, of the answer that is given
    abstained:  the probability is under the bundle's threshold: better not to rely on the label
    by:         whose answer it is; joined = the mixed probabilities of both
    reason:     why (see Reason)
    student:    the student's own answer
    teacher:    the teacher's, where it came in time
    request_id: names the answer for `Cascade.feedback`
    cost_usd:   what asking about this image costs; of an audit, whose query goes out later, at most
    problem:    what kept the teacher from answering, in words
    """

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    abstained: bool
    by: By
    reason: Reason
    student: Prediction
    teacher: TeacherPrediction | None
    request_id: str
    cost_usd: float
    problem: str | None = None


def ranked(row: Floats, classes: Sequence[str], top: int) -> TeacherPrediction:
    """The classes that a row of probabilities (K,) ranks first."""
    order = np.argsort(-row, kind="stable")
    best = int(order[0])
    pairs = tuple((classes[place], float(row[place])) for place in order[:top])
    return TeacherPrediction(classes[best], best, float(row[best]), pairs)
