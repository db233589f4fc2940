"""When a cascade asks the teacher, and how the two answers become one: pure functions, and cascade.json.

The student answers every image. Where it is unsure the teacher is asked ("escalated"), as in selective
classification (Geifman and El-Yaniv, 2017), and the answers are joined. The benchmark chooses a policy on
source validation and writes it; the client follows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.bundle import PRECISIONS
from vl2v_deploy.client.typed_json import from_json, to_json
from vl2v_deploy.errors import BundleError
from vl2v_deploy.regular_files import read_text

Floats: TypeAlias = npt.NDArray[np.float64]
Deferral: TypeAlias = Literal["max_probability", "margin", "entropy"]
Combine: TypeAlias = Literal["teacher", "more_confident", "mixed"]
FORMAT = 2
WITHOUT_STUDENT = 1  # the format that did not name the student


@dataclass(frozen=True)
class ChosenFor:
    """The student on whose answers a policy was chosen.

    bundle:      its name
    onnx_sha256: SHA-256 of its student.onnx, which every other file of a bundle is made from
    precision:   of the file that answered
    """

    bundle: str
    onnx_sha256: str
    precision: str


@dataclass(frozen=True)
class CascadePolicy:
    """When the teacher is asked, and whose answer is taken then.

    deferral:            what measures how unsure the student is (see `unsureness`)
    threshold:           the teacher is asked where unsureness is above it; 0 = about every image, 1 = never
    combine:             how the answers of an escalated image are joined (see `joined`)
    student_weight:      share of the student's probabilities in `mixed`, in [0, 1]
    teacher_temperature: T by which the teacher's logits, the manifest's logit_scale times the cosine of image
                         and class, are divided; fitted on source validation
    share:               of source validation images that are escalated at this threshold: what was promised
    never:               classes of the student's for which the teacher is not asked, since it is worse there
    chosen_for:          the student on whose answers it was chosen; None where that is not known
    format:              of cascade.json
    """

    deferral: Deferral
    threshold: float
    combine: Combine
    student_weight: float
    teacher_temperature: float
    share: float
    never: tuple[str, ...] = ()
    chosen_for: ChosenFor | None = None
    format: int = FORMAT


def unsureness(probabilities: Floats, deferral: Deferral) -> Floats:
    """How unsure the student is of each image, in [0, 1]; 1 where its answer is not a number; (N,).

    probabilities: (N, K) softmax of the student's logits, K >= 2

    max_probability: 1 - p_1, of the most probable class
    margin:          1 - (p_1 - p_2), of the two most probable
    entropy:         -sum_c p_c log p_c / log K

    >>> unsureness(np.array([[0.5, 0.5], [1.0, 0.0]]), "entropy")
    array([1., 0.])
    """
    p = np.asarray(probabilities, np.float64)
    found: Floats
    match deferral:
        case "max_probability":
            found = 1.0 - p.max(axis=1)
        case "margin":
            two: Floats = np.partition(p, -2, axis=1)[:, -2:]
            found = 1.0 - (two[:, 1] - two[:, 0])
        case "entropy":
            logs: Floats = -np.log(np.where(p > 0, p, 1.0))
            found = (p * logs).sum(axis=1) / np.log(p.shape[1])
        case _:
            raise ValueError(f"deferral {deferral!r}: expected max_probability, margin or entropy")
    # Rounding may leave [0, 1] by a little; the ends mean something: see `is_unsure`.
    return np.clip(np.where(np.isnan(found), 1.0, found), 0.0, 1.0)


def is_unsure(unsure: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Whether `unsureness` is above the threshold; at a threshold of 0 every image counts as unsure.

    So a threshold of 1 asks about no image and 0 about all, those whose probability is exactly 1 among them.

    >>> is_unsure(np.array([0.0, 0.5, 1.0]), 0.0).tolist(), is_unsure(np.array([0.0, 0.5, 1.0]), 1.0).tolist()
    ([True, True, True], [False, False, False])
    """
    above: npt.NDArray[np.bool_] = unsure > threshold
    return np.ones_like(above) if threshold <= 0.0 else above


def joined(student: Floats, teacher: Floats, combine: Combine, student_weight: float = 0.5) -> Floats:
    """The probabilities that a cascade answers with where both were asked; (N, K).

    student, teacher: (N, K) calibrated probabilities; where the student's are not numbers, the teacher's are
                      taken

    teacher:        the teacher's
    more_confident: of the two, those with the larger maximum; the teacher's where they are equal
    mixed:          student_weight * student + (1 - student_weight) * teacher

    >>> joined(np.array([[0.7, 0.3]]), np.array([[0.4, 0.6]]), "more_confident")
    array([[0.7, 0.3]])
    """
    match combine:
        case "teacher":
            return teacher
        case "more_confident":
            surer = student.max(axis=1) > teacher.max(axis=1)  # (N,); False for NaN
            return np.where(surer[:, None], student, teacher)
        case "mixed":
            mixed = student_weight * student + (1.0 - student_weight) * teacher
            return np.where(np.isnan(mixed).any(axis=1, keepdims=True), teacher, mixed)
    raise ValueError(f"combine {combine!r}: expected teacher, more_confident or mixed")


def asks_teacher(
    probabilities: Floats, policy: CascadePolicy, classes: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Whether the policy asks the teacher about each image; (N,).

    probabilities: (N, K) of the student
    classes:       names of the K classes

    >>> policy = CascadePolicy("max_probability", 0.25, "teacher", 0.0, 1.0, 0.5, never=("dog",))
    >>> asks_teacher(np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]), policy, ("cat", "dog"))
    array([False,  True, False])
    """
    asked = is_unsure(unsureness(probabilities, policy.deferral), policy.threshold)
    spared = [name in policy.never for name in classes]  # (K,)
    kept: npt.NDArray[np.bool_] = asked & ~np.array(spared)[np.asarray(probabilities).argmax(axis=1)]
    return kept


def load_policy(file: Path | str) -> CascadePolicy:
    """The policy in cascade.json, as `vl2v-deploy benchmark` writes it.

    Raises BundleError when the file cannot be read, is of another format or a field is wrong.
    """
    try:
        tree = json.loads(read_text(file))
        policy = from_json(CascadePolicy, tree)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise BundleError(f"{file}: is not a cascade's policy: {error}") from error
    if policy.format not in (WITHOUT_STUDENT, FORMAT):
        raise BundleError(
            f"{file}: is of format {policy.format}, this version reads {WITHOUT_STUDENT} and {FORMAT}: run "
            "`vl2v-deploy benchmark BUNDLE --teacher` with this version"
        )
    if policy.chosen_for is not None and policy.chosen_for.precision not in PRECISIONS:
        raise BundleError(
            f"{file}: chosen_for.precision: expected one of {', '.join(PRECISIONS)}, got "
            f"{policy.chosen_for.precision!r}"
        )
    for name in ("threshold", "student_weight", "share"):
        if not 0.0 <= getattr(policy, name) <= 1.0:
            raise BundleError(f"{file}: {name}: expected a share in [0, 1], got {getattr(policy, name)}")
    if not 0.0 < policy.teacher_temperature < float("inf"):
        raise BundleError(f"{file}: teacher_temperature: expected a positive number")
    return policy


def text_of_policy(policy: CascadePolicy) -> str:
    """cascade.json's text."""
    return json.dumps(to_json(policy), indent=2) + "\n"
