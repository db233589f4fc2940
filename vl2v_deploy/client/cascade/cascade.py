"""The student answers every image; where it is unsure the teacher is asked, within a budget and a time."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

from vl2v_deploy.client.answers import Prediction
from vl2v_deploy.client.cascade.answering import Answering
from vl2v_deploy.client.cascade.answers import UNAVAILABLE, CascadePrediction
from vl2v_deploy.client.cascade.asking import Asker
from vl2v_deploy.client.cascade.breaker import Breaker
from vl2v_deploy.client.cascade.kept import KeptFolder
from vl2v_deploy.client.cascade.options import (
    budget_from,
    policy_from,
    require_limits,
    running_share_from,
)
from vl2v_deploy.client.cascade.policy import CascadePolicy
from vl2v_deploy.client.cascade.queue import TeacherQueue
from vl2v_deploy.client.cascade.summary import CascadeSummary, summary_of
from vl2v_deploy.client.cascade.tally import Tally
from vl2v_deploy.client.cascade.teacher import Teacher
from vl2v_deploy.client.images import ImageSource
from vl2v_deploy.client.micro_batcher import MicroBatcher
from vl2v_deploy.client.student import Student
from vl2v_deploy.errors import ClosedError, TeacherError, did_you_mean

if TYPE_CHECKING:  # it takes its time to import; who awaits has it already
    from asyncio import AbstractEventLoop, Event

OnTeacherError: TypeAlias = Literal["student", "raise"]
BATCH_SIZE = 32  # Student.stream's own


class Cascade:
    """A student that asks a teacher where it is unsure. Safe to share between threads.

    The student's answer is never lost: where the teacher is slow, down, busy or too expensive, it is given at
    once, and the answer says so. Teachers are asked in threads of the cascade's own, several images together.

    >>> with Cascade(student, teacher, share=0.2) as cascade:  # doctest: +SKIP
    ...     answer = cascade.predict("photo.jpg")
    ...     answer.label, answer.by, answer.reason
    ('mammal', 'teacher', 'unsure')
    """

    def __init__(
        self,
        student: Student | MicroBatcher,
        teacher: Teacher,
        *,
        policy: CascadePolicy | Path | str | None = None,
        threshold: float | None = None,
        share: float | None = None,
        window: int = 1000,
        never: Iterable[str] = (),
        usd_per_query: float | None = None,
        max_usd_per_day: float | None = None,
        spent_file: Path | str | None = None,
        audit_rate: float = 0.0,
        timeout_s: float = 5.0,
        min_interval_s: float = 10.0,
        on_teacher_error: OnTeacherError = "student",
        batch: int = 8,
        threads: int = 4,
        max_waiting: int = 256,
        remember: int = 100_000,
        keep: KeptFolder | Path | str | None = None,
        seed: int | None = None,
    ) -> None:
        """A cascade that is open; `close` it, or use it in a `with` block.

        student:          who answers first, alone or behind a MicroBatcher; stays open when this is closed
        teacher:          a function of a list of images, as they were given to `predict`: see
                          client.cascade.teacher for what it may return
        policy:           the benchmark's cascade.json, or such a policy; None = the teacher's answer is taken
                          as it is where the student's probability is below 1 - threshold
        threshold:        in place of the policy's: the teacher is asked where unsureness is above it
        share:            in place of a threshold: this share of the images is asked about, the most unsure of
                          the last `window` (see RunningShare); those that are never asked about do not count
        never:            classes of the student's about which the teacher is not asked, beside the policy's
        usd_per_query:    price of one image; None = the teacher's own `usd_per_query`, or nothing
        max_usd_per_day:  never passed on a day of UTC, by all processes with the same `spent_file`
        spent_file:       where what was spent is kept; a file on a local disk
        audit_rate:       share of the confident answers about which the teacher is asked too, in the
                          background: they stay the student's, and `summary` estimates how often both differ
        timeout_s:        how long an image waits for the teacher
        min_interval_s:   after a failure the teacher is left alone for so long, then tried once
        on_teacher_error: student = it answers where the teacher failed; raise = TeacherError. A spent budget
                          is no failure
        batch, threads:   images in one call of the teacher, and calls at once, at most
        max_waiting:      images that wait for the teacher, at most; beyond that the student answers
        remember:         answers that `feedback` can still name
        keep:             folder for the images that the teacher answered, with its answers; off by default.
                          KeptFolder(folder, max_bytes=, max_days=) sets its limits
        seed:             of the draws for audits and ties; None = other draws each time

        Raises ValueError for an option that makes no sense, BundleError for a policy that cannot be read or
        was chosen for another student, SettingError for a spent_file that is damaged or cannot be written.
        """
        self._source = student
        self.student = student.student if isinstance(student, MicroBatcher) else student
        self.classes = self.student.classes
        self.policy = policy_from(policy, threshold, share, never, self.student)
        require_limits(batch, threads, max_waiting, remember, audit_rate, timeout_s, min_interval_s)
        if on_teacher_error not in ("student", "raise"):
            raise ValueError(f"on_teacher_error {on_teacher_error!r}: expected student or raise")
        self.timeout_s, self.on_teacher_error = timeout_s, on_teacher_error
        if getattr(teacher, "classes", self.classes) != self.classes:
            raise ValueError("teacher: answers about other classes than the student's, or in another order")
        usd = getattr(teacher, "usd_per_query", None) if usd_per_query is None else usd_per_query
        asker = Asker(
            teacher=teacher,
            classes=self.classes,
            temperature=self.policy.teacher_temperature,
            usd=usd or 0.0,
            budget=budget_from(max_usd_per_day, usd, spent_file),
            breaker=Breaker(min_interval_s),
            timeout_s=timeout_s,
            tally=Tally(self.classes, remember),
            kept=KeptFolder(keep) if isinstance(keep, str | Path) else keep,
        )
        draws = random.Random(seed)
        self._answering = Answering(
            student=self.student,
            policy=self.policy,
            running_share=running_share_from(share, window, draws.random),
            audit_rate=audit_rate,
            random=draws,
            asker=asker,
            queue=TeacherQueue(asker.ask, threads=threads, batch=batch, most_waiting=max_waiting),
        )
        self._together = batch * threads
        self._closed, self._process = False, os.getpid()

    def predict(
        self, image: ImageSource, *, top: int = 3, ask: bool = True, request_id: str | None = None
    ) -> CascadePrediction:
        """The answer to one image; waits for the teacher where it is asked, at most `timeout_s`.

        image:      path, encoded bytes, Pillow image or uint8 array; handed on to the teacher as it is
        top:        how many classes `top` holds
        ask:        False = the teacher is not asked, whatever the student says: the image comes from a domain
                    where the teacher is worse, or must not leave
        request_id: a name of your own for `feedback`; None = a new one

        Raises what the student's `predict` raises, ClosedError after `close`, and TeacherError with
        on_teacher_error="raise".
        """
        self._require_open()
        student = self._source.predict(image, top=top, logits=True)
        begun = self._answering.begin(image, student, ask, request_id)
        outcome = self._answering.outcome(begun, self.timeout_s)
        return self._given(self._answering.finish(begun, outcome, top))

    async def predict_async(
        self, image: ImageSource, *, top: int = 3, ask: bool = True, request_id: str | None = None
    ) -> CascadePrediction:
        """`predict` for asyncio; never blocks the event loop."""
        import asyncio  # here, as it takes its time to import; who awaits this has it already

        self._require_open()
        if isinstance(self._source, MicroBatcher):
            student = await self._source.predict_async(image, top=top, logits=True)
        else:
            student = await asyncio.to_thread(self._source.predict, image, top=top, logits=True)
        begun = self._answering.begin(image, student, ask, request_id)
        if begun.future is not None:
            answered = asyncio.Event()
            loop = asyncio.get_running_loop()
            begun.future.add_done_callback(lambda _: _tell(loop, answered))
            try:
                async with asyncio.timeout(self.timeout_s):
                    await answered.wait()
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                begun.future.cancel()  # if no thread has taken it, nothing is sent
                raise
        return self._given(self._answering.finish(begun, self._answering.outcome(begun, 0.0), top))

    def predict_batch(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        top: int = 3,
        ask: bool = True,
    ) -> list[CascadePrediction]:
        """The answer to each image, in order; the student answers all of them before the teacher is asked.

        The teacher is asked about batch * threads images at once, which wait `timeout_s` together.

        batch_size, workers: as of Student.stream; None = its defaults. A MicroBatcher has its own

        Raises what `predict` raises, and ValueError for batch_size or workers with a MicroBatcher.
        """
        self._require_open()
        given = list(images)
        answers = self._student_answers(given, batch_size, workers, top)
        found: list[CascadePrediction] = []
        for start in range(0, len(given), self._together):  # no more wait at once than are asked at once
            part = slice(start, start + self._together)
            pairs = zip(given[part], answers[part], strict=True)
            begun = [self._answering.begin(image, answer, ask, None) for image, answer in pairs]
            until_s = monotonic() + self.timeout_s  # of all: each with a wait of its own would be many
            outcomes = [self._answering.outcome(one, max(0.0, until_s - monotonic())) for one in begun]
            finished = [
                self._answering.finish(one, each, top) for one, each in zip(begun, outcomes, strict=True)
            ]
            found += map(self._given, finished)
        return found

    def _student_answers(
        self, images: list[ImageSource], batch_size: int | None, workers: int | None, top: int
    ) -> list[Prediction]:
        if isinstance(self._source, MicroBatcher):
            if batch_size is not None or workers is not None:
                raise ValueError(
                    "batch_size, workers: a MicroBatcher was given its own when it was made; leave them out"
                )
            return self._source.predict_batch(images, top=top, logits=True)
        return self.student.predict_batch(
            images,
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            workers=workers,
            top=top,
            logits=True,
        )

    def feedback(self, request_id: str, label: str) -> None:
        """Tell the right label of an answer; a second one takes the first one's place.

        Raises UnknownRequest for an answer that is not, or no longer, remembered; ValueError for a label that
        is no class.
        """
        if label not in self.classes:
            raise ValueError(f"label {label!r}: is no class{did_you_mean(label, self.classes)}")
        self._answering.asker.tally.label(request_id, self.classes.index(label))

    def summary(self) -> CascadeSummary:
        """What was done until now, what audits say of student and teacher, what labels say of all three.

        A budget whose file cannot be read any more is told as `budget_problem`.
        """
        return summary_of(self._answering.asker, self._answering.queue.waiting)

    def close(self) -> None:
        """Accept no more, answer what was accepted, end the threads; a second call does nothing.

        Audits that wait are dropped. A call of the teacher that has not returned within `timeout_s` is left
        to itself: Python cannot end it. From asyncio: `async with`, or `await asyncio.to_thread(close)`.
        """
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._answering.queue.close(self.timeout_s)

    def __enter__(self) -> Cascade:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Cascade:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    def _require_open(self) -> None:
        if os.getpid() != self._process:
            raise ClosedError("this Cascade was made before this process was forked: make a new one here")
        if self._closed:
            raise ClosedError("this Cascade is closed: make a new one")

    def _given(self, answer: CascadePrediction) -> CascadePrediction:
        """The answer; TeacherError where the user wants to hear of a teacher that failed."""
        if self.on_teacher_error == "raise" and answer.reason in UNAVAILABLE:
            raise TeacherError(f"{answer.reason}: {answer.problem}", billed=answer.cost_usd > 0)
        return answer


def _tell(loop: AbstractEventLoop, answered: Event) -> None:
    """Set the event from another thread, unless its loop has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(answered.set)
