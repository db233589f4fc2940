"""Measurements with logits of student and teacher, made up: noise around the truth, how much is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.helpers.measurements import CLASSES, engine, image_set, measurements
from vl2v_deploy.benchmarking.answers import Answers, Halves, Key, Part, halves_from_logits
from vl2v_deploy.benchmarking.schema import (
    DomainImages,
    ImageSet,
    Measurements,
    Predictions,
)
from vl2v_deploy.benchmarking.worker.contract import top1_from_logits

STUDENT, TEACHER = "onnxruntime:int8", "teacher"


def cascade_measurements(
    teacher_noise: Mapping[str, float] | float = 1.0,
    student_noise: float = 2.0,
    *,
    n: int = 400,
    n_validation: int = 200,
    group_size: int = 1,
    teacher_scale: float = 1.0,
    classes: tuple[str, ...] = CLASSES,
    **changes: Any,
) -> Measurements:
    """One int8 student and a teacher with their logits on three domains and on source validation.

    teacher_noise, student_noise: standard deviation of what is added to logits of 4 for the true class; more
                   is worse. The teacher's of each domain may be given
    teacher_scale: by which the teacher's logits are too large for their accuracy
    """
    images = image_set(n, classes, group_size=group_size)
    validation = image_set(n_validation, classes).domains
    sources = {name: one for name, one in validation.items() if name != images.target}
    named = {
        name: one.model_copy(update={"names": [f"{path}.val" for path in one.names]})
        for name, one in sources.items()
    }
    images = images.model_copy(update={"validation": named})
    rng = np.random.default_rng(7)
    held: dict[Key, Halves] = {}
    parts: tuple[tuple[Part, Mapping[str, DomainImages]], ...]
    parts = ("measured", images.domains), ("validation", images.validation)
    for part, domains in parts:
        for name, one in domains.items():
            theirs = teacher_noise if isinstance(teacher_noise, float) else teacher_noise[name]
            for who, noise, scale in ((STUDENT, student_noise, 1.0), (TEACHER, theirs, teacher_scale)):
                rows = 4.0 * np.eye(len(classes))[one.labels] + noise * rng.standard_normal(
                    (len(one.labels), len(classes))
                )
                held[who, part, name] = halves_from_logits((scale * rows).astype(np.float32))
    answers = Answers(held)
    engines = [
        engine(STUDENT, _predictions(answers, STUDENT, images), 2.0),
        engine(TEACHER, _predictions(answers, TEACHER, images), 20.0),
    ]
    return measurements(
        engines,
        images,
        classes=list(classes),
        **{"answers": answers, "answers_sha256": answers.sha256(), **changes},
    )


def _predictions(answers: Answers, who: str, images: ImageSet) -> dict[str, Predictions]:
    made = {}
    for domain in images.domains:
        told = top1_from_logits(answers.logits[who, "measured", domain].astype(np.float32))
        made[domain] = Predictions(
            labels=[label for label, _ in told], confidence=[round(p, 4) for _, p in told]
        )
    return made
