"""From the student's answer to the cascade's: is it unsure, is the teacher asked, whose answer is given."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vl2v_deploy.client.answers import Prediction, softmax
from vl2v_deploy.client.cascade.answers import By, CascadePrediction, Reason, ranked
from vl2v_deploy.client.cascade.asking import Asker, Outcome, Question
from vl2v_deploy.client.cascade.decision import RunningShare
from vl2v_deploy.client.cascade.policy import CascadePolicy, Floats, asks_teacher, joined, unsureness
from vl2v_deploy.client.cascade.queue import TeacherQueue
from vl2v_deploy.client.cascade.tally import Record
from vl2v_deploy.client.images import ImageSource
from vl2v_deploy.client.student import Student


@dataclass(frozen=True, slots=True)
class Begun:
    """An image that the student has answered; future: of the teacher's answer, where it is waited for."""

    student: Prediction
    row: Floats  # (K,) probabilities
    request_id: str
    record: Record
    reason: Reason
    future: Future[Outcome] | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Answering:
    """What all answers of a cascade are made with; threads may share it.

    running_share: followed in place of the policy's threshold, where it is given
    audit_rate:    share of confident answers that the teacher is asked about
    """

    student: Student
    policy: CascadePolicy
    running_share: RunningShare | None
    audit_rate: float
    random: random.Random
    asker: Asker
    queue: TeacherQueue[Question, Outcome]

    def begin(self, image: ImageSource, student: Prediction, ask: bool, request_id: str | None) -> Begun:
        """Decide, and hand the image to the teacher's threads if it is to be asked about."""
        row = softmax(np.array(student.logits, np.float32))
        student = replace(student, logits=None)
        request_id = request_id or uuid.uuid4().hex
        if not ask or student.label in self.policy.never:
            record = self.asker.tally.begin(request_id, "never", student.index)
            return Begun(student, row, request_id, record, "never")
        is_unsure = self._is_unsure(row)
        record = self.asker.tally.begin(request_id, "unsure" if is_unsure else "confident", student.index)
        if not is_unsure and not self.random.random() < self.audit_rate:
            return Begun(student, row, request_id, record, "confident")
        refusal = self._refusal()
        future = None
        if refusal is None:
            reason: Reason = "unsure" if is_unsure else "audit"
            question = Question(_owned(image), request_id, row, reason, record)
            future = self.queue.submit(question, audit=not is_unsure)
        if not is_unsure:
            return Begun(student, row, request_id, record, "confident" if future is None else "audit")
        refusal = refusal or Outcome("busy", problem="too many images wait for the teacher")
        return Begun(student, row, request_id, record, refusal.reason, future, refusal.problem)

    def _is_unsure(self, row: Floats) -> bool:
        """Whether the teacher is to be asked about an image of no class in `never`; row (K,)."""
        if self.running_share is not None:
            return self.running_share(float(unsureness(row[None], self.policy.deferral)[0]))
        return bool(asks_teacher(row[None], self.policy, self.student.classes)[0])

    def _refusal(self) -> Outcome | None:
        """Why the teacher is not asked now; None where it is."""
        if self.queue.is_stuck(self.asker.timeout_s):
            return Outcome(
                "slow", problem=f"every call of the teacher has run for over {self.asker.timeout_s:g} s"
            )
        return self.asker.refusal()

    def outcome(self, begun: Begun, wait_s: float) -> Outcome:
        """What the teacher answered, or why it did not; waits for it for so long."""
        future = begun.future
        if future is None:
            cost_usd = self.asker.usd if begun.reason == "audit" else 0.0
            return Outcome(begun.reason, cost_usd=cost_usd, problem=begun.problem)
        try:
            return future.result(wait_s)
        except TimeoutError:
            if future.cancel():  # no thread has taken it: nothing was sent
                return Outcome(
                    "busy", problem=f"no call of the teacher was free within {self.asker.timeout_s:g} s"
                )
            return self.asker.gave_up(self.queue.longest_call_s())
        except Exception as error:
            return Outcome("teacher_error", problem=str(error))

    def finish(self, begun: Begun, outcome: Outcome, top: int) -> CascadePrediction:
        """The answer that is given, counted."""
        row, by = self._joined(begun.row, outcome.teacher)
        answer = begun.student if by == "student" else ranked(row, self.student.classes, top)
        self.asker.tally.finish(begun.record, answer.index, by, outcome.reason)
        return CascadePrediction(
            label=answer.label,
            index=answer.index,
            probability=answer.probability,
            top=answer.top,
            abstained=self.student.abstains(answer.probability),
            by=by,
            reason=outcome.reason,
            student=begun.student,
            teacher=None if outcome.teacher is None else ranked(outcome.teacher, self.student.classes, top),
            request_id=begun.request_id,
            cost_usd=outcome.cost_usd,
            problem=outcome.problem,
        )

    def _joined(self, student: Floats, teacher: Floats | None) -> tuple[Floats, By]:
        """The probabilities (K,) that are answered, and whose they are."""
        if teacher is None:
            return student, "student"
        if np.isnan(student).any():  # no answer, so there is nothing to join
            return teacher, "teacher"
        policy = self.policy
        [row] = joined(student[None], teacher[None], policy.combine, policy.student_weight)
        if policy.combine == "mixed":
            return row, "joined"
        return row, "student" if policy.combine != "teacher" and np.array_equal(row, student) else "teacher"


def _owned(image: ImageSource) -> ImageSource:
    """The image, copied where its caller may change it before the teacher has seen it."""
    return image if isinstance(image, str | Path | bytes) else image.copy()
