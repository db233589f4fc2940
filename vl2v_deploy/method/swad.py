"""SWAD: weights averaged densely over the loss valley. Source: Cha et al., NeurIPS 2021, algorithm 1."""
# ruff: noqa: ARG002 - every averager gets the same arguments and uses those that it needs

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from vl2v_deploy.errors import ModelError
from vl2v_deploy.method.reports import Segment, SwadReport
from vl2v_deploy.method.weights import RunningMean, named_like
from vl2v_deploy.recipe import SwadRecipe


def require_loss(step: int, loss: float) -> None:
    """ModelError for a validation loss that is negative or no number: its threshold would mean nothing."""
    if not (math.isfinite(loss) and loss >= 0):
        raise ModelError(
            f"averaging swad: the validation loss at step {step} is {loss}: expected a finite "
            "cross-entropy >= 0; lower the stage's learning_rate, or choose another averaging"
        )


class Swad:
    """Mean of the weights after every step of the loss valley; an Averager.

    Evaluations close segments. The valley starts with the oldest of the last N_s segments once none of them
    has a smaller loss; a segment is *over* when its loss is above (1 + r) times the mean loss of those N_s.
    N_e segments over in a row, looked for from the next evaluation on, end the valley before them. Without
    such a run it lasts to the end of the training. If the valley never starts, the result is the last
    segment's mean.

    This is algorithm 1, from which the authors' code departs (swad_authors.py): here each step of the valley
    counts once (theirs counts segments alike, some twice, and may begin before the valley), and a run that
    the end of the training cuts short belongs to the valley, t_e = T (theirs drops it). The window of N_e may
    begin before the valley, as in algorithm 1, but can end nothing then: the start's own loss is at or under
    the threshold, which presumes losses >= 0.

    Memory: at most N_s segment means before the start, then one mean of the valley and one of the run.
    """

    def __init__(self, recipe: SwadRecipe) -> None:
        self.recipe = recipe
        self.segments: list[Segment] = []
        self.start: int | None = None  # index of the valley's first segment
        self.threshold: float | None = None
        self.dead = False
        self._open = RunningMean()  # steps since the last evaluation
        self._open_start = 0
        self._recent: list[RunningMean] = []  # before the start: means of the last N_s segments
        self._valley = RunningMean()
        self._run = RunningMean()  # the last segments, all of them over: in or out together
        self._run_length = 0

    def after_step(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        if self.dead:
            return
        if not self._open.steps:
            self._open_start = step
        self._open.add(parameters.values())

    def after_evaluation(
        self, step: int, parameters: Mapping[str, Tensor], loss: float, accuracy: float
    ) -> bool:
        """Close a segment; True once the valley is dead.

        Raises ModelError for a loss that is negative or no number: the threshold would mean nothing.
        """
        if self.dead or not self._open.steps:
            return self.dead
        require_loss(step, loss)
        self.segments.append(Segment(self._open_start, step, loss, accuracy))
        mean, self._open = self._open, RunningMean()
        if self.start is None:
            self._recent = [*self._recent, mean][-self.recipe.converge :]
            self._look_for_start()
        else:
            self._extend(mean, loss)
            self.dead = self._run_length == self.recipe.tolerance
        return self.dead

    def _look_for_start(self) -> None:
        window = self.segments[-self.recipe.converge :]
        if len(window) < self.recipe.converge or window[0].loss > min(s.loss for s in window):
            return
        self.start = len(self.segments) - len(window)
        self.threshold = (1 + self.recipe.ratio) * math.fsum(s.loss for s in window) / len(window)
        # The first evaluation that may end the valley is the next one, and it ends it N_e before itself:
        # what is older belongs to the valley whatever its loss.
        certain = max(1, len(window) - self.recipe.tolerance + 1)
        for mean in self._recent[:certain]:
            self._valley.merge(mean)
        for mean, segment in zip(self._recent[certain:], window[certain:], strict=True):
            self._extend(mean, segment.loss)
        self._recent = []

    def _extend(self, mean: RunningMean, loss: float) -> None:
        """Put a segment behind the valley: into it together with the run before, or onto the run."""
        assert self.threshold is not None
        self._run.merge(mean)
        self._run_length += 1
        if loss <= self.threshold:
            self._valley.merge(self._run)
            self._run, self._run_length = RunningMean(), 0

    def _mean(self) -> RunningMean:
        """The mean that would be the result now; with segments over behind the valley, a new object."""
        if self.start is None:
            return self._recent[-1] if self._recent else RunningMean()
        if self.dead or not self._run.steps:
            return self._valley
        joined = RunningMean()
        joined.merge(self._valley)
        joined.merge(self._run)
        return joined

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_like(parameters, self._mean().tensors)

    def report(self) -> SwadReport:
        closed = len(self.segments)
        first = closed - 1 if self.start is None else self.start
        last = closed - 1 - (self._run_length if self.dead else 0)
        return SwadReport(
            kind="swad",
            converged=self.start is not None,
            dead=self.dead,
            start_step=self.segments[first].start_step if closed else None,
            end_step=self.segments[last].end_step if closed else None,
            averaged_steps=self._mean().steps,
            threshold=self.threshold,
            segments=tuple(self.segments),
        )

    def state(self) -> dict[str, Any]:
        return {
            "segments": [asdict(segment) for segment in self.segments],
            "start": self.start,
            "threshold": self.threshold,
            "dead": self.dead,
            "open": self._open.state(),
            "open_start": self._open_start,
            "recent": [mean.state() for mean in self._recent],
            "valley": self._valley.state(),
            "run": self._run.state(),
            "run_length": self._run_length,
        }

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        def mean(saved: dict[str, Any]) -> RunningMean:
            return RunningMean.from_state(saved, parameters)

        self.segments = [Segment(**segment) for segment in state["segments"]]
        self.start, self.threshold, self.dead = state["start"], state["threshold"], state["dead"]
        self._open, self._open_start = mean(state["open"]), state["open_start"]
        self._recent = [mean(saved) for saved in state["recent"]]
        self._valley, self._run = mean(state["valley"]), mean(state["run"])
        self._run_length = state["run_length"]
