"""SWAD as the public code of its authors computes it (Cha et al. 2021); swad.py is their algorithm 1."""
# ruff: noqa: ARG002 - every averager gets the same arguments and uses those that it needs

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from vl2v_deploy.method.reports import Segment, SwadReport
from vl2v_deploy.method.swad import require_loss
from vl2v_deploy.method.weights import RunningMean, fp32_copies, named_like, restored
from vl2v_deploy.recipe import StageRecipe


class AuthorsSwad:
    """Mean of segments, each counted as one set of weights however many steps it has; an Averager.

    Start and threshold are algorithm 1's. Three things are not. Segments join through a window of the last
    N_e: at each evaluation after the start whose window ends no earlier than the start's segment, its oldest
    one joins, so that segments before the start can, and one can join more than once. At the start those of
    the window's oldest N_e - N_s + 1 join that follow the last one over the threshold, the first of them left
    out. In the end, of the window's rest, those join up to the last from which on any loss is small enough.

    With `segments: cumulative` a segment is the mean of all steps so far. The mean begins anew only after
    evaluations at multiples of 1,000 steps past 2,500.

    Memory: the means of the last max(N_s, N_e) segments, one of the valley and one under way.
    """

    RESTART_EVERY, RESTART_PAST = 1000, 2500  # steps

    def __init__(self, recipe: StageRecipe) -> None:
        self.recipe = recipe.swad
        self.counts_from_zero = recipe.evaluate_from_first_step
        self.segments: list[Segment] = []
        self.start: int | None = None  # index of the segment at which the valley was found
        self.threshold: float | None = None
        self.dead = False
        self._open = RunningMean()
        self._open_start = 0
        self._held: dict[int, list[Tensor]] = {}  # weights of the last segments, by index
        self._joined: list[int] = []  # segments in the valley's mean, in the order in which they joined
        self._valley = RunningMean()

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
        newest = len(self.segments) - 1
        self._held[newest] = fp32_copies(self._open.tensors)
        if self._begins_anew(step):
            self._open = RunningMean()
        if self.start is None:
            self._look_for_start(newest)
        else:
            self._slide(self._window(newest))
        # Before the start its candidates are needed, too.
        kept = max(self.recipe.tolerance, self.recipe.converge if self.start is None else 0)
        self._held = {index: self._held[index] for index in sorted(self._held)[-kept:]}
        return self.dead

    def _begins_anew(self, step: int) -> bool:
        if self.recipe.segments == "since_evaluation":
            return True
        counted = step if self.counts_from_zero else step + 1
        return counted > self.RESTART_PAST and counted % self.RESTART_EVERY == 0

    def _window(self, newest: int) -> range:
        """The last N_e segments."""
        return range(max(0, newest + 1 - self.recipe.tolerance), newest + 1)

    def _look_for_start(self, newest: int) -> None:
        n_s, n_e = self.recipe.converge, self.recipe.tolerance
        first = newest + 1 - n_s
        losses = [segment.loss for segment in self.segments[max(first, 0) :]]
        if len(losses) < n_s or losses[0] > min(losses):
            return
        self.start, self.threshold = first, (1 + self.recipe.ratio) * math.fsum(losses) / n_s
        # The result if nothing ever joins; the first that does takes its place.
        self._valley = RunningMean(fp32_copies(self._held[first]))
        if n_e < n_s:
            joining: Sequence[int] = range(first + 1, first + 1 + n_s - n_e)
        elif n_e == n_s:
            joining = ()
        else:
            oldest = self._window(newest)[: n_e - n_s + 1]
            over = [place for place, index in enumerate(oldest) if self._is_over([index])]
            joining = oldest[over[-1] + 2 if over else 1 :]
        for index in joining:
            self._join(index)

    def _slide(self, window: range) -> None:
        assert self.start is not None
        if window[0] < self.start:
            return
        self.dead = self._is_over(window)
        if not self.dead:
            self._join(window[0])

    def _is_over(self, segments: Sequence[int]) -> bool:
        """Whether the smallest loss of these segments is above the threshold."""
        assert self.threshold is not None
        return min(self.segments[index].loss for index in segments) > self.threshold

    def _join(self, index: int) -> None:
        self._valley.add(self._held[index])
        self._joined.append(index)

    def _rest(self) -> range:
        """The segments that join at the end of the training."""
        rest = self._window(len(self.segments) - 1)[1:]
        good = [place for place in range(len(rest)) if not self._is_over(rest[place:])]
        return rest[: len(good)]

    def _ending(self) -> tuple[list[Tensor], list[int]]:
        """What the result would be now, and the segments in it."""
        if self.start is None:
            last = len(self.segments) - 1
            return (self._held[last], [last]) if self.segments else ([], [])
        if self.dead:
            return self._valley.tensors, self._joined or [self.start]
        rest = self._rest()
        mean = RunningMean(fp32_copies(self._valley.tensors), self._valley.steps)
        for index in rest:
            mean.add(self._held[index])
        return mean.tensors, [*self._joined, *rest] or [self.start]

    def result(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return named_like(parameters, self._ending()[0])

    def report(self) -> SwadReport:
        joined = self._ending()[1]
        of_segments = [self.segments[index] for index in joined]
        steps = {step for part in of_segments for step in range(part.start_step, part.end_step + 1)}
        return SwadReport(
            kind="swad",
            converged=self.start is not None,
            dead=self.dead,
            start_step=min(steps, default=None),
            end_step=max(steps, default=None),
            averaged_steps=len(steps),
            threshold=self.threshold,
            segments=tuple(self.segments),
            variant="authors",
            joined=tuple(joined),
        )

    def state(self) -> dict[str, Any]:
        return {
            "segments": [asdict(segment) for segment in self.segments],
            "start": self.start,
            "threshold": self.threshold,
            "dead": self.dead,
            "open": self._open.state(),
            "open_start": self._open_start,
            "held": dict(self._held),
            "joined": list(self._joined),
            "valley": self._valley.state(),
        }

    def restore(self, state: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
        self.segments = [Segment(**segment) for segment in state["segments"]]
        self.start, self.threshold, self.dead = state["start"], state["threshold"], state["dead"]
        self._open = RunningMean.from_state(state["open"], parameters)
        self._open_start, self._joined = state["open_start"], list(state["joined"])
        self._held = {index: restored(tensors, parameters) for index, tensors in state["held"].items()}
        self._valley = RunningMean.from_state(state["valley"], parameters)
