"""One call of the teacher: breaker, budget, answer checked, counted and kept. Runs in the queue's threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import monotonic

import numpy as np

from vl2v_deploy.client.cascade.answers import Reason
from vl2v_deploy.client.cascade.breaker import Breaker
from vl2v_deploy.client.cascade.budget import DailyBudget
from vl2v_deploy.client.cascade.kept import KeptAnswer, KeptFolder, KeptLabel, text_of_embedding
from vl2v_deploy.client.cascade.policy import Floats
from vl2v_deploy.client.cascade.tally import Record, Tally
from vl2v_deploy.client.cascade.teacher import Teacher, TeacherAnswers, checked_answers, tempered
from vl2v_deploy.client.images import ImageSource
from vl2v_deploy.errors import ImageError, SettingError, one_line

LEAST_KEPT = 1e-4  # probabilities below it are not written


@dataclass(frozen=True, slots=True)
class Question:
    """An image that the teacher is to be asked about.

    student: (K,) its probabilities
    reason:  unsure or audit
    """

    image: ImageSource
    request_id: str
    student: Floats
    reason: Reason
    record: Record


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question.

    reason:  unsure where the teacher answered, else why it did not
    teacher: (K,) its probabilities, at the policy's temperature
    """

    reason: Reason
    teacher: Floats | None = None
    cost_usd: float = 0.0
    problem: str | None = None


@dataclass
class Asker:
    """Asks the teacher within its budget, unless the breaker is open; threads may share it.

    usd:       what a query costs
    budget:    None = spending is not limited, and counted in this object alone
    timeout_s: an answer that takes longer comes too late, and opens the breaker
    queries, spent_usd: sent so far; what they cost or may have cost
    """

    teacher: Teacher
    classes: tuple[str, ...]
    temperature: float
    usd: float
    budget: DailyBudget | None
    breaker: Breaker
    timeout_s: float
    tally: Tally
    kept: KeptFolder | None
    queries: int = 0
    spent_usd: float = 0.0

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._last_problem: str | None = None

    def refusal(self) -> Outcome | None:
        """Why the teacher would not be asked now; None where it would. Touches neither file nor network."""
        if self.breaker.is_open(monotonic()):
            return Outcome("breaker_open", problem=self._last_problem)
        if self.budget is not None and self.budget.is_used_up:
            return _used_up(self.budget)
        return None

    def gave_up(self, longest_call_s: float) -> Outcome:
        """A caller has waited `timeout_s` for a call that still runs.

        The teacher is slow if a call has run for most of that. If none has, the image waited in line, which
        is no reason to leave the teacher alone.

        longest_call_s: for how long the longest of the calls has run
        """
        problem = f"no answer within {self.timeout_s:g} s"
        if longest_call_s > self.timeout_s / 2:
            self._failed(problem)
        else:
            problem += ", most of which the image waited for its turn"
        return Outcome("slow", cost_usd=self.usd, problem=problem)

    def ask(self, questions: Sequence[Question]) -> list[Outcome]:
        """An outcome for each question; raises nothing."""
        if not self.breaker.allows(monotonic()):
            return [Outcome("breaker_open", problem=self._last_problem)] * len(questions)
        granted, day = len(questions), ""
        refused: Outcome | None = None
        if self.budget is not None:
            try:
                granted, day = self.budget.reserve(self.usd, len(questions))
                refused = _used_up(self.budget)
            except SettingError as error:
                granted, refused = 0, Outcome("budget", problem=str(error))
        outcomes = self._ask(questions[:granted], day) if granted else []
        return outcomes + [refused] * (len(questions) - granted) if refused else outcomes

    def _ask(self, questions: Sequence[Question], day: str) -> list[Outcome]:
        count, started_s = len(questions), monotonic()
        with self._lock:
            self.queries += count
            self.spent_usd += count * self.usd
        try:
            found = self.teacher([question.image for question in questions])
            answers = checked_answers(found, self.classes, count)
        except ImageError as error:  # before anything was sent; the teacher itself is well
            with self._lock:
                self.queries -= count
            problem = self._released(count, day, one_line(error))
            if count == 1:
                return [Outcome("teacher_error", problem=problem)]
            return [outcome for question in questions for outcome in self.ask([question])]
        except Exception as error:  # whatever a user's function raises
            problem = one_line(error)
            self._failed(problem)
            if getattr(error, "billed", True):
                return [Outcome("teacher_error", cost_usd=self.usd, problem=problem)] * count
            return [Outcome("teacher_error", problem=self._released(count, day, problem))] * count
        took_s = monotonic() - started_s
        if took_s > self.timeout_s:
            self._failed(f"an answer took {took_s:.2f} s, more than {self.timeout_s:g} s")
        else:
            self.breaker.succeeded()
        rows = tempered(answers.probabilities, self.temperature)  # (N, K)
        for place, question in enumerate(questions):
            self.tally.teacher_answered(question.record, int(rows[place].argmax()))
            if self.kept is not None:
                self.kept.keep(question.image, partial(self._line, question, rows[place], answers, place))
        return [Outcome("unsure", row, self.usd) for row in rows]

    def _failed(self, problem: str) -> None:
        self._last_problem = problem
        self.breaker.failed(monotonic())

    def _released(self, count: int, day: str, problem: str) -> str:
        """Gives back what was reserved; the problem, with what became of that."""
        with self._lock:
            self.spent_usd -= count * self.usd
        try:
            if self.budget is not None:
                self.budget.release(self.usd, count, day)
        except SettingError as error:  # it stays counted as spent: less is asked, never more
            return f"{problem}; {error}"
        return problem

    def _line(
        self,
        question: Question,
        row: Floats,
        answers: TeacherAnswers,
        place: int,
        at: str,
        image: str,
        sha256: str,
    ) -> KeptAnswer:
        embeddings = answers.embeddings
        return KeptAnswer(
            at=at,
            request_id=question.request_id,
            image=image,
            sha256=sha256,
            reason=question.reason,
            student=_label(question.student, self.classes),
            teacher=_label(row, self.classes),
            identity=getattr(self.teacher, "identity", None),
            version=answers.version,
            embedding=None if embeddings is None else text_of_embedding(embeddings[place]),
        )


def _used_up(budget: DailyBudget) -> Outcome:
    return Outcome("budget", problem=f"the budget of the day, ${budget.max_usd}, is spent ({budget.file})")


def _label(row: Floats, classes: Sequence[str]) -> KeptLabel:
    order = np.argsort(-row, kind="stable")
    shown = {classes[i]: float(f"{row[i]:.6g}") for i in order if row[i] >= LEAST_KEPT}
    return KeptLabel(classes[order[0]], shown)
