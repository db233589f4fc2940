"""Calibrated probabilities of student and teacher on the same images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from vl2v_deploy.benchmarking.answers import Answers, Part
from vl2v_deploy.benchmarking.cascade.curve import Answered
from vl2v_deploy.benchmarking.schema import DomainImages
from vl2v_deploy.method.confidence import LEAST, MOST, fit_temperature


def teacher_temperature(answers: Answers, teacher: str, validation: Mapping[str, DomainImages]) -> float:
    """T by which the teacher's logits are divided: the one of least cross-entropy on source validation.

    Its mean over source domains, so that a large domain does not outvote a small one; 1 where these images
    do not show one: all right, or all wrong.
    """
    rows = np.concatenate([answers.logits[teacher, "validation", domain] for domain in validation])
    labels = np.concatenate([images.labels for images in validation.values()])
    weights = np.concatenate([np.full(n, 1 / n) for n in (len(of.labels) for of in validation.values())])
    found = fit_temperature(*map(torch.from_numpy, (rows.astype(np.float64), labels, weights)))
    return found if 1.01 / MOST < found < 0.99 / LEAST else 1.0


def answered_sets(
    answers: Answers,
    student: str,
    teacher: str,
    part: Part,
    images: Mapping[str, DomainImages],
    temperature: float,
) -> dict[str, Answered]:
    """The answers of both by domain; the student's were calibrated at export.

    temperature: of the teacher's logits
    """
    return {
        domain: Answered(
            labels=np.array(of.labels, np.int64),
            groups=of.groups,
            student=answers.probabilities(student, part, domain),
            teacher=answers.probabilities(teacher, part, domain, temperature),
        )
        for domain, of in images.items()
    }
