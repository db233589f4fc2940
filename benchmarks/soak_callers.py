"""Callers of the soak test: each asks in its own way, again and again, and checks every answer."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vl2v_deploy.client import MicroBatcher, Prediction, Student
from vl2v_deploy.errors import ImageError

ASYNC_CALLERS = 8
LEAVES_EARLY = 0.05  # share of asyncio's questions
ENOUGH_WRONG = 20


@dataclass(frozen=True)
class Question:
    """An encoded image and what the student said of it alone: logits (K,), or None where it must refuse."""

    name: str
    image: bytes
    logits: np.ndarray[Any, Any] | None


@dataclass
class Load:
    """What callers share: whom they ask, what, until when, and what came of it."""

    student: Student
    batcher: MicroBatcher
    questions: list[Question]
    tolerance: float
    stop: threading.Event = field(default_factory=threading.Event)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("asked", "answered", "refused", "left"), 0)
    )
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, outcome: str, number: int = 1) -> None:
        with self._lock:
            self.counts[outcome] += number

    def blame(self, what: str) -> None:
        """Note what is wrong; the first few end the soak."""
        with self._lock:
            self.wrong.append(what)
            if len(self.wrong) >= ENOUGH_WRONG:
                self.stop.set()

    def check(self, way: str, question: Question, answer: Prediction | ImageError) -> None:
        """Hold one answer against the student's own."""
        if isinstance(answer, ImageError):
            self.count("refused")
            if question.logits is not None:
                self.blame(f"{way}: {question.name}: was refused: {answer}")
            return
        self.count("answered")
        if question.logits is None:
            self.blame(f"{way}: {question.name}: was answered {answer.label}, must be refused")
            return
        error = float(np.abs(np.asarray(answer.logits) - question.logits).max())
        if not error <= self.tolerance:
            self.blame(
                f"{way}: {question.name}: a logit is off by {error:.3g}, tolerance {self.tolerance:.3g}: "
                f"another image's answer? said {answer.label}"
            )


def ask_one(load: Load, draw: random.Random, ask: Callable[..., Prediction], way: str) -> None:
    question = draw.choice(load.questions)
    load.count("asked")
    try:
        answer: Prediction | ImageError = ask(question.image, logits=True)
    except ImageError as error:
        answer = error
    load.check(way, question, answer)


def ask_predict(load: Load, draw: random.Random) -> None:
    ask_one(load, draw, load.student.predict, "predict")


def ask_batcher(load: Load, draw: random.Random) -> None:
    ask_one(load, draw, load.batcher.predict, "MicroBatcher")


def ask_batch(load: Load, draw: random.Random) -> None:
    """A batch of good images; every fourth time one with a hostile image at its end, which refuses all."""
    good = [question for question in load.questions if question.logits is not None]
    asked = draw.choices(good, k=draw.randint(1, 12))
    if bad := draw.random() < 0.25:
        asked.append(draw.choice([question for question in load.questions if question.logits is None]))
    load.count("asked", len(asked))
    try:
        answers = load.student.predict_batch([q.image for q in asked], batch_size=5, logits=True)
    except ImageError as error:
        load.count("refused", len(asked))
        if not bad:
            load.blame(f"predict_batch: {len(asked)} good images were refused: {error}")
        return
    if bad or len(answers) != len(asked):
        load.blame(f"predict_batch: {len(asked)} images, {bad:d} of them bad: {len(answers)} answers")
    for question, answer in zip(asked, answers, strict=False):
        load.check("predict_batch", question, answer)


def ask_stream(load: Load, draw: random.Random) -> None:
    asked = draw.choices(load.questions, k=40)
    load.count("asked", len(asked))
    images = (question.image for question in asked)
    answers = list(load.student.stream(images, batch_size=8, workers=2, logits=True, on_error="yield"))
    if len(answers) != len(asked):
        load.blame(f"stream: {len(asked)} images, {len(answers)} answers")
    for question, answer in zip(asked, answers, strict=False):
        load.check("stream", question, answer)


def ask_asyncio(load: Load, draw: random.Random) -> None:
    """One round of concurrent questions on an event loop of their own."""

    async def ask(question: Question) -> None:
        load.count("asked")
        leave_after_s = draw.random() * 0.01 if draw.random() < LEAVES_EARLY else None
        try:
            async with asyncio.timeout(leave_after_s):
                answer: Prediction | ImageError = await load.batcher.predict_async(
                    question.image, logits=True
                )
        except TimeoutError:
            load.count("left")
            return
        except ImageError as error:
            answer = error
        load.check("predict_async", question, answer)

    async def caller() -> None:
        for question in draw.choices(load.questions, k=20):
            await ask(question)

    async def main() -> None:
        await asyncio.gather(*(caller() for _ in range(ASYNC_CALLERS)))

    asyncio.run(main())


WAYS = (ask_predict, ask_batcher, ask_stream, ask_batch, ask_asyncio)


def call(load: Load, way: Callable[[Load, random.Random], None], seed: int) -> None:
    """Ask again and again until the soak stops; whatever escapes is blamed."""
    draw = random.Random(seed)
    while not load.stop.is_set():
        try:
            way(load, draw)
        except Exception as error:
            load.blame(f"{way.__name__}: {type(error).__name__}: {error}")
