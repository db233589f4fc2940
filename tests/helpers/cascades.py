"""A student and a teacher whose answers are known: an image is the text of its probabilities."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vl2v_deploy.client import Prediction, Runtime
from vl2v_deploy.client.answers import softmax
from vl2v_deploy.errors import ImageError

CLASSES = ("cat", "dog", "owl")
RUNTIME = Runtime("CPUExecutionProvider", "fp32", 1, onnxruntime="1.0", why="a test")
SURE, UNSURE = b"0.9,0.06,0.04", b"0.4,0.35,0.25"  # the student says cat of both
DOG, OWL = (0.1, 0.8, 0.1), (0.05, 0.05, 0.9)


class TextStudent:
    """Answers with the probabilities that an image says: b"0.5,0.3,0.2"; anything else is a bad image."""

    classes = CLASSES

    def predict(self, image: bytes, *, top: int = 3, logits: bool = False) -> Prediction:
        return self.prediction_from_logits(self.run(self.pixels(image)[None])[0][0], top=top, logits=logits)

    def predict_batch(self, images: Sequence[bytes], **options: Any) -> list[Prediction]:
        options = {name: value for name, value in options.items() if name in ("top", "logits")}
        return [self.predict(image, **options) for image in images]

    def pixels(self, image: bytes) -> np.ndarray[Any, Any]:
        try:
            return np.array([float(number) for number in image.split(b",")], np.float32)
        except ValueError as error:
            raise ImageError(f"{image!r}: is bad") from error

    def run(self, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], None]:
        with np.errstate(divide="ignore"):  # a probability of 0
            return np.log(images), None

    def prediction_from_logits(
        self, row: np.ndarray[Any, Any], *, top: int = 3, logits: bool = False
    ) -> Prediction:
        row = np.asarray(row)
        found = softmax(row)
        order = np.argsort(-found, kind="stable")[:top]
        best = int(order[0])
        return Prediction(
            label=CLASSES[best],
            index=best,
            probability=float(found[best]),
            top=tuple((CLASSES[i], float(found[i])) for i in order),
            abstained=self.abstains(float(found[best])),
            runtime=RUNTIME,
            logits=tuple(row.tolist()) if logits else None,
        )

    def abstains(self, probability: float) -> bool:
        return not probability >= 0.5  # as Student: of NaN too


class ScriptedTeacher:
    """Answers every image alike, and remembers what it was asked.

    fault: raised in place of an answer; gate: passed before an answer is given
    """

    def __init__(self, row: Sequence[float] = DOG, gate: threading.Event | None = None) -> None:
        self.row, self.gate = row, gate
        self.fault: Exception | None = None
        self.calls: list[list[Any]] = []
        self.reached = threading.Semaphore(0)

    def __call__(self, images: list[Any]) -> np.ndarray[Any, Any]:
        self.calls.append(images)
        self.reached.release()
        if self.gate is not None:
            assert self.gate.wait(60.0), "the gate was never opened"
        if self.fault is not None:
            raise self.fault
        return np.tile(np.array(self.row), (len(images), 1))

    @property
    def images(self) -> list[Any]:
        return [image for call in self.calls for image in call]


def answered_by(teacher: Callable[[Any], Any]) -> Callable[[list[Any]], np.ndarray[Any, Any]]:
    """A teacher that answers each image by a function of it."""
    return lambda images: np.stack([np.asarray(teacher(image), np.float64) for image in images])
