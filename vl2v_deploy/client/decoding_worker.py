"""What runs in a process of decoding_processes: decodes what comes in by standard input until it ends."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, BinaryIO

import numpy as np

from vl2v_deploy.client.decoding_process import ANSWER, QUESTION, READY
from vl2v_deploy.client.images import Limits, Pixels
from vl2v_deploy.client.preprocess import open_rgb, pixels_from_source
from vl2v_deploy.errors import ImageError

_GRACE_S = 5.0  # after the deadline, when nobody has killed this process


def answer_questions() -> None:
    """Answers each image with its pixels or with what is wrong, until standard input ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # of a whole group: for the parent, whose end ends this
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    answers.write(READY)
    answers.flush()
    while len(head := questions.read(QUESTION.size)) == QUESTION.size:
        question_bytes, image_bytes = QUESTION.unpack(head)
        question, encoded = json.loads(questions.read(question_bytes)), questions.read(image_bytes)
        _alarm_in(question["deadline_s"] + _GRACE_S)
        _answer(answers, _decoded(encoded, question))
        _alarm_in(0)


def _alarm_in(seconds: float) -> None:
    """Let the system end this process, even within a decoder and without a parent; 0 = no longer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _decoded(encoded: bytes, question: dict[str, Any]) -> Pixels | str:
    limits = Limits(
        max_pixels=question["max_pixels"],
        max_bytes=question["max_bytes"],
        formats=tuple(question["formats"]),
        trusted=question["trusted"],
    )
    least_px, size_px = question["least_px"], question["size_px"]
    try:
        if size_px is not None:
            return pixels_from_source(encoded, size_px, limits, draft=least_px is not None)
        return np.asarray(open_rgb(encoded, limits, least_px=least_px))
    except ImageError as error:
        return str(error)


def _answer(answers: BinaryIO, outcome: Pixels | str) -> None:
    if isinstance(outcome, str):
        text = outcome.encode("utf-8", "backslashreplace")
        answers.write(ANSWER.pack(False, 0, 0, len(text)) + text)
    else:
        height, width, _ = outcome.shape
        answers.write(ANSWER.pack(True, width, height, outcome.nbytes))
        answers.write(np.ascontiguousarray(outcome).data)
    answers.flush()
