"""What the page shows, for machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from vl2v_deploy.looking.answers import NOBODY, Look
from vl2v_deploy.looking.choosing import (
    PICTURES_OF_FOLDER,
    SURE,
    class_shares,
    counts_by_domain,
    disagreements,
    least_sure,
    mistakes_by_domain,
    surest,
    weak_classes,
)
from vl2v_deploy.names import shown

FORMAT = 1


def summary_of(look: Look) -> dict[str, Any]:
    """The summary as JSON values; shares and confidences are in [0, 1]."""
    subject = look.subject
    said = {
        "format": FORMAT,
        "name": subject.name,
        "kind": subject.kind,
        "precision": subject.precision,
        "images": len(look.answers),
        "confident_from": SURE,
        "abstain_below": subject.abstain_below,
        "abstained": float(look.answers.abstained.mean()),
        "failed": [{"image": shown(name), "reason": shown(reason)} for name, reason in look.failed],
        "notes": [shown(note) for note in look.notes],
    }
    return said | (_labelled(look) if look.labelled else _unlabelled(look))


def _labelled(look: Look) -> dict[str, Any]:
    classes = [shown(name) for name in look.subject.classes]
    mistakes = mistakes_by_domain(look)
    domains = {
        shown(domain): asdict(counts)
        | {"accuracy": counts.accuracy, "teacher_accuracy": counts.teacher_accuracy}
        | {"most_confident_mistakes": _images(look, mistakes.get(domain, ()))}
        for domain, counts in counts_by_domain(look).items()
    }
    apart = disagreements(look.answers) if look.teacher else {}
    return {
        "target": shown(look.subject.target),
        "teacher": look.teacher,
        "domains": domains,
        "disagreements": {kind: _images(look, rows) for kind, rows in apart.items()},
        "worst_classes": [
            {
                "class": classes[weak.label],
                "images": weak.images,
                "right": weak.right,
                "taken_for": {classes[other]: n for other, n in weak.taken_for},
            }
            for weak in weak_classes(look)
        ],
    }


def _unlabelled(look: Look) -> dict[str, Any]:
    answers, classes = look.answers, [shown(name) for name in look.subject.classes]
    usual = look.subject.usual_shares
    return {
        "of": look.of[""],
        "class_shares": dict(zip(classes, class_shares(answers, len(classes)), strict=True)),
        "class_shares_of_source_validation": dict(zip(classes, usual, strict=True)) if usual else None,
        "least_confident": _images(look, least_sure(answers, PICTURES_OF_FOLDER)),
        "most_confident": _images(
            look, surest(answers, np.ones(len(answers), dtype=bool), PICTURES_OF_FOLDER)
        ),
    }


def _images(look: Look, rows: Iterable[int]) -> list[dict[str, Any]]:
    answers, classes = look.answers, [shown(name) for name in look.subject.classes]

    def one(row: int) -> dict[str, Any]:
        found: dict[str, Any] = {"image": answers.images[row].name}
        if answers.label[row] != NOBODY:
            found["class"] = classes[answers.label[row]]
        found |= {"student": classes[answers.index[row]], "confidence": float(answers.confidence[row])}
        if answers.teacher[row] != NOBODY:
            found["teacher"] = classes[answers.teacher[row]]
            found["teacher_confidence"] = float(answers.teacher_confidence[row])
        return found

    return [one(row) for row in rows]
