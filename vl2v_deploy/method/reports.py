"""Which weights a stage ended with, by kind of averaging; a part of run.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """The steps up to an evaluation since the one before, and what it found with the weights at its end.

    loss: cross-entropy, nats
    """

    start_step: int
    end_step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class SwadReport:
    """The mean over SWAD's loss valley; over the last segment alone where no valley was found.

    start_step, end_step, averaged_steps: what the result is the mean of
    segments: all that were evaluated; empty where a table's runs.jsonl leaves them out
    variant:  None = algorithm 1
    joined:   the segments in the mean of the authors' variant, counted from 0, one that counts twice twice
    """

    kind: Literal["swad"]
    converged: bool
    dead: bool
    start_step: int | None
    end_step: int | None
    averaged_steps: int
    threshold: float | None
    segments: tuple[Segment, ...] = ()
    variant: Literal["authors"] | None = None
    joined: tuple[int, ...] | None = None


@dataclass(frozen=True)
class EmaReport:
    """An exponential moving average over all steps."""

    kind: Literal["ema"]
    decay: float
    averaged_steps: int


@dataclass(frozen=True)
class LastReport:
    """The weights of the last step."""

    kind: Literal["last"]


@dataclass(frozen=True)
class BestReport:
    """The weights of the evaluation with the highest accuracy.

    kind: best = on the sources' val split; oracle = on the target's
    """

    kind: Literal["best", "oracle"]
    step: int | None
    loss: float | None
    accuracy: float | None


AveragingReport = SwadReport | EmaReport | LastReport | BestReport
