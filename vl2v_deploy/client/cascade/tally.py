"""What a cascade has answered, what audits and labels say of it; bounded memory, for threads to share."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, TypeAlias

import numpy as np

from vl2v_deploy.client.cascade.answers import By, Reason
from vl2v_deploy.client.cascade.estimates import Estimate, estimate, weighted
from vl2v_deploy.errors import UnknownRequest

# The parts of the traffic, which are asked about at different rates: of those that are unsure all, of the
# confident the audit's share, of `never` none.
Part: TypeAlias = Literal["unsure", "confident", "never"]
PARTS: tuple[Part, ...] = ("unsure", "confident", "never")


@dataclass(frozen=True)
class Disagreement:
    """How often student and teacher give different labels; it says that they differ, not who is right.

    overall:  share of all images but those of part `never`, which the teacher never sees
    by_class: the same of the images that the student gives each class; without classes it never gave
    asked:    answers of the teacher that this rests on: of unsure images, and of audited confident ones

    Each part of the traffic counts by its size, so audits stand for all confident answers.
    """

    overall: Estimate
    by_class: Mapping[str, Estimate]
    asked: Mapping[Part, int]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on the labels that `feedback` brought.

    student, teacher, cascade: on the whole traffic. Each part of it (unsure, confident, never) counts by its
             size, however many of its images were labelled; the labels of a part are taken as a random sample
             of it. The teacher's rests on images that it answered, so on audits for the confident ones
    by:      of the cascade's answers, by who gave them, as they were labelled
    labels:  how many there are
    """

    student: Estimate
    teacher: Estimate
    cascade: Estimate
    by: Mapping[By, Estimate]
    labels: int


@dataclass(slots=True)
class Record:
    """An answer that is remembered; classes as their indices.

    answer:  the cascade's; None until it is given
    teacher: None where it has not answered
    label:   the right one, where it was told
    """

    part: Part
    student: int
    by: By = "student"
    answer: int | None = None
    teacher: int | None = None
    label: int | None = None


@dataclass
class _Labelled:
    """Of one part: answers whose label is known, and how many were right."""

    counts: Counter[str] = field(default_factory=Counter)

    def estimate(self, who: str) -> Estimate:
        return estimate(self.counts[f"{who} right"], self.counts[who])


class Tally:
    """Counts of all answers, and the last `remember` of them.

    classes: K names
    """

    def __init__(self, classes: Sequence[str], remember: int) -> None:
        self.classes, self._remember = tuple(classes), remember
        self._lock = Lock()
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._sizes = {part: np.zeros(len(classes), np.int64) for part in PARTS}
        self._asked = {part: np.zeros(len(classes), np.int64) for part in PARTS}
        self._differ = {part: np.zeros(len(classes), np.int64) for part in PARTS}
        self._labelled = {part: _Labelled() for part in PARTS}
        self._by_labelled: Counter[tuple[By, bool]] = Counter()
        self._reasons: Counter[Reason] = Counter()
        self._by: Counter[By] = Counter()
        self.forgotten = 0

    def begin(self, request_id: str, part: Part, student: int) -> Record:
        """A new answer, before it is known whose it will be; one of the same id is forgotten."""
        record = Record(part, student)
        with self._lock:
            self._sizes[part][student] += 1
            self._records.pop(request_id, None)
            self._records[request_id] = record
            while len(self._records) > self._remember:
                _, old = self._records.popitem(last=False)
                self.forgotten += old.label is None
        return record

    def teacher_answered(self, record: Record, teacher: int) -> None:
        """The teacher's answer came, in time or late."""
        with self._lock:
            self._asked[record.part][record.student] += 1
            self._differ[record.part][record.student] += teacher != record.student
            self._count_label(record, -1)
            record.teacher = teacher
            self._count_label(record, 1)

    def finish(self, record: Record, answer: int, by: By, reason: Reason) -> None:
        """The cascade gives its answer."""
        with self._lock:
            self._reasons[reason] += 1
            self._by[by] += 1
            self._count_label(record, -1)
            record.answer, record.by = answer, by
            self._count_label(record, 1)

    def label(self, request_id: str, label: int) -> None:
        """The right class of an answer; a second label takes the first one's place.

        Raises UnknownRequest.
        """
        with self._lock:
            record = self._records.get(request_id)
            if record is None:
                raise UnknownRequest(
                    f"request_id {request_id!r}: no such answer among the last {len(self._records):,} "
                    f"(remember={self._remember:,}); its label was not counted"
                )
            self._count_label(record, -1)
            record.label = label
            self._count_label(record, 1)

    @property
    def reasons(self) -> dict[Reason, int]:
        with self._lock:
            return dict(self._reasons)

    @property
    def answered_by(self) -> dict[By, int]:
        with self._lock:
            return dict(self._by)

    @property
    def sizes(self) -> dict[Part, int]:
        """Images of each part."""
        with self._lock:
            return {part: int(self._sizes[part].sum()) for part in PARTS}

    def disagreement(self) -> Disagreement:
        """What audits and escalated images say."""
        with self._lock:
            by_class = {
                name: self._differ_in(slice(place, place + 1))
                for place, name in enumerate(self.classes)
                if self._sizes["unsure"][place] + self._sizes["confident"][place]
            }
            asked: dict[Part, int] = {part: int(self._asked[part].sum()) for part in ("unsure", "confident")}
            return Disagreement(self._differ_in(slice(None)), by_class, asked)

    def accuracy(self) -> Accuracy:
        """What labels say."""
        with self._lock:
            whole = {
                who: weighted(
                    [(int(self._sizes[part].sum()), self._labelled[part].estimate(who)) for part in PARTS]
                )
                for who in ("student", "teacher", "cascade")
            }
            by: dict[By, Estimate] = {}
            for name in sorted({name for name, _ in self._by_labelled}):
                right, wrong = self._by_labelled[name, True], self._by_labelled[name, False]
                if right + wrong:
                    by[name] = estimate(right, right + wrong)
            labels = sum(part.counts["student"] for part in self._labelled.values())
        return Accuracy(whole["student"], whole["teacher"], whole["cascade"], by, labels)

    def _differ_in(self, classes: slice) -> Estimate:
        parts = []
        for part in ("unsure", "confident"):
            size, asked, differ = (
                int(counts[part][classes].sum()) for counts in (self._sizes, self._asked, self._differ)
            )
            parts.append((size, estimate(differ, asked, size)))
        return weighted(parts)

    def _count_label(self, record: Record, sign: int) -> None:
        """Adds or takes away what a record says of those who answered; nothing while it has no label."""
        if record.label is None:
            return
        counts = self._labelled[record.part].counts
        for who, found in (
            ("student", record.student),
            ("teacher", record.teacher),
            ("cascade", record.answer),
        ):
            if found is not None:
                counts[who] += sign
                counts[f"{who} right"] += sign * (found == record.label)
        if record.answer is not None:
            self._by_labelled[record.by, record.answer == record.label] += sign
