"""Which images are shown, and what is counted: pure functions of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vl2v_deploy.client.intervals import wilson_interval
from vl2v_deploy.looking.answers import Answers, Bools, Ints, Look

SURE = 0.9  # confidence from which a mistake is called a confident one
MOST_DOMAINS = 24  # whose mistakes are shown as pictures
MOST_PICTURES = 240  # of mistakes, over all domains
PICTURES_OF_DOMAIN = 12
PICTURES_OF_KIND = 8  # of each kind of disagreement
MOST_CLASSES = 6  # the worst ones, each with as many examples
PICTURES_OF_CLASS = 6
PICTURES_OF_FOLDER = 24  # the most and the least confident of images without labels
POINTS = 600  # of the map


@dataclass(frozen=True)
class Counts:
    """Of one domain, or of all: how many images, and of these how many ...

    images:    are looked at, of `of`
    right:     the student answers right
    confident: it answers wrong, with a confidence of at least SURE
    abstained: it is better not relied on
    asked:     the teacher has answered; of these both are right, only the student or the teacher is, or
               neither is; and how often they say the same
    """

    images: int
    of: int
    right: int
    confident: int
    abstained: int
    asked: int
    both_right: int
    only_student: int
    only_teacher: int
    both_wrong: int
    agree: int

    @property
    def accuracy(self) -> float:
        """Of the student, in [0, 1]."""
        return self.right / self.images

    @property
    def teacher_accuracy(self) -> float | None:
        """On the images that the teacher has answered, in [0, 1]."""
        return (self.both_right + self.only_teacher) / self.asked if self.asked else None


@dataclass(frozen=True)
class WeakClass:
    """A class of which the student knows little.

    by_domain: (domain, images, right) of those that have it
    taken_for: (class, images), the most frequent first
    rows:      its most confident mistakes
    """

    label: int
    images: int
    right: int
    by_domain: tuple[tuple[int, int, int], ...]
    taken_for: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]


def counts_of(look: Look, rows: Ints, of: int) -> Counts:
    """What is counted over some rows.

    of: how many images there are, looked at or not
    """
    answers = look.answers
    right, asked, teacher = (part[rows] for part in (answers.right, answers.asked, answers.teacher_right))
    return Counts(
        images=len(rows),
        of=of,
        right=int(right.sum()),
        confident=int((~right & (answers.confidence[rows] >= SURE)).sum()),
        abstained=int(answers.abstained[rows].sum()),
        asked=int(asked.sum()),
        both_right=int((right & teacher).sum()),
        only_student=int((asked & right & ~teacher).sum()),
        only_teacher=int((~right & teacher).sum()),
        both_wrong=int((asked & ~right & ~teacher).sum()),
        agree=int((asked & (answers.index[rows] == answers.teacher[rows])).sum()),
    )


def counts_by_domain(look: Look) -> dict[str, Counts]:
    """The counts of every domain, in order."""
    return {
        domain: counts_of(look, look.rows_of(number), look.of[domain])
        for number, domain in enumerate(look.domains)
    }


def surest(answers: Answers, chosen: Bools, most: int) -> tuple[int, ...]:
    """Rows of the chosen images (N,), the most confident answers of the student first."""
    rows = np.flatnonzero(chosen)
    return tuple(rows[np.argsort(-answers.confidence[rows], kind="stable")][:most].tolist())


def least_sure(answers: Answers, most: int) -> tuple[int, ...]:
    """Rows of the images of which the student is least sure, the least first."""
    return tuple(np.argsort(answers.confidence, kind="stable")[:most].tolist())


def mistakes_by_domain(look: Look) -> dict[str, tuple[int, ...]]:
    """The most confident mistakes of each domain: of the target first, then where accuracy is lowest."""
    answers, counts = look.answers, counts_by_domain(look)
    first = look.domains[:1] if look.has_target else ()
    others = sorted(look.domains[len(first) :], key=lambda name: (counts[name].accuracy, name))
    shown = (*first, *others)[:MOST_DOMAINS]
    most = min(PICTURES_OF_DOMAIN, MOST_PICTURES // len(shown))
    wrong = ~answers.right
    return {
        name: surest(answers, wrong & (answers.domain == look.domains.index(name)), most) for name in shown
    }


def disagreements(answers: Answers) -> dict[str, tuple[int, ...]]:
    """Where student and teacher say different things, by who is right; the student's surest answers first."""
    apart = answers.asked & (answers.index != answers.teacher)
    right, teacher_right = answers.right, answers.teacher_right
    kinds = {
        "only_teacher": apart & teacher_right,
        "only_student": apart & right,
        "both_wrong": apart & ~right & ~teacher_right,
    }
    return {name: surest(answers, chosen, PICTURES_OF_KIND) for name, chosen in kinds.items()}


def weak_classes(look: Look) -> tuple[WeakClass, ...]:
    """The classes that are surely known least: by the upper end of the 95 % interval of accuracy."""
    answers = look.answers
    found = []
    for label in range(len(look.subject.classes)):
        of_class = answers.label == label
        images, right = int(of_class.sum()), int((of_class & answers.right).sum())
        if right < images:
            found.append((wilson_interval(right, images)[1], label))
    return tuple(_weak_class(look, label) for _, label in sorted(found)[:MOST_CLASSES])


def _weak_class(look: Look, label: int) -> WeakClass:
    answers = look.answers
    of_class = answers.label == label
    wrong = of_class & ~answers.right
    taken_for = np.bincount(answers.index[wrong], minlength=len(look.subject.classes))
    by_domain = []
    for domain in range(len(look.domains)):
        here = of_class & (answers.domain == domain)
        if here.any():
            by_domain.append((domain, int(here.sum()), int((here & answers.right).sum())))
    return WeakClass(
        label=label,
        images=int(of_class.sum()),
        right=int((of_class & answers.right).sum()),
        by_domain=tuple(by_domain),
        taken_for=tuple(
            (int(n), int(taken_for[n])) for n in np.argsort(-taken_for, kind="stable") if taken_for[n]
        ),
        rows=surest(answers, wrong, PICTURES_OF_CLASS),
    )


def confusion(answers: Answers, index: Ints, rows: Ints) -> list[list[int]]:
    """[class, answer, images] of each pair that there is, of some rows.

    index: (N,) of the student or the teacher
    """
    pairs, counts = np.unique(np.stack([answers.label[rows], index[rows]]), axis=1, return_counts=True)
    return [[int(t), int(p), int(n)] for (t, p), n in zip(pairs.T, counts, strict=True)]


def class_shares(answers: Answers, classes: int) -> list[float]:
    """The share of images that the student gives to each class; (K,)."""
    return [n / len(answers) for n in np.bincount(answers.index, minlength=classes).tolist()]


def points_of_map(answers: Answers) -> tuple[int, ...]:
    """Rows of the images that the map shows: evenly spread, which keeps every domain its share."""
    count = len(answers)
    if count <= POINTS:
        return tuple(range(count))
    return tuple(i * count // POINTS for i in range(POINTS))
