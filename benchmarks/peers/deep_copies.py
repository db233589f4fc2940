"""SWAD as the authors' code keeps its books: with deep copies of the whole model, optimizer and all.

Our own transcription of what their trainer, averaged model and loss-valley rule do; method/swad.py is how
we do it. Where they depart from the published algorithm, so does this: the valley's first segment counts
more than once and every segment alike (see Swad's docstring).
"""

from __future__ import annotations

import copy
from collections import deque

import torch
from torch import nn

from vl2v_deploy.recipe import SwadRecipe


class ModelMean:
    """A mean of models, held in a deep copy of the first; the copy itself counts only once it is added.

    module:         the mean so far
    count:          how many models were added
    first, last:    steps it is the mean of
    loss:           validation loss (nats) at its end, once it is a closed segment
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = copy.deepcopy(model)
        self.count = 0
        self.first, self.last = -1, -1
        self.loss = float("nan")

    @torch.no_grad()
    def add(self, model: nn.Module, first: int, last: int) -> None:
        """Take in one more model, which stands for the steps from `first` to `last`."""
        for mean, new in zip(self.module.parameters(), model.parameters(), strict=True):
            # The first one replaces the copy, as nothing was counted yet.
            mean.add_((new.detach().to(mean.device) - mean) / (self.count + 1))
        self.first = first if self.count == 0 else self.first
        self.last = last
        self.count += 1

    def merge(self, segment: ModelMean) -> None:
        """Take in a segment as one model, however many steps it has."""
        self.add(segment.module, segment.first, segment.last)


class LossValley:
    """Which segments make up the result: their rule with N_s (converge), N_e (tolerance) and r (ratio)."""

    def __init__(self, recipe: SwadRecipe) -> None:
        self.recipe = recipe
        self.candidates: deque[ModelMean] = deque(maxlen=recipe.converge)
        self.window: deque[ModelMean] = deque(maxlen=recipe.tolerance)
        self.valley: ModelMean | None = None
        self.converged_at, self.threshold = -1, float("nan")
        self.dead = False

    def close(self, segment: ModelMean, loss: float) -> None:
        """A segment ends with an evaluation that found `loss`; a copy of it is kept in main memory."""
        if self.dead:
            return
        segment.module.cpu()
        kept = copy.deepcopy(segment)
        kept.loss = loss
        self.candidates.append(kept)
        self.window.append(kept)
        if self.valley is None:
            self._look_for_start()
        elif self.window[0].last >= self.converged_at:
            self.dead = self._smallest_loss() > self.threshold
            if not self.dead:
                self.valley.merge(self.window[0])

    def _look_for_start(self) -> None:
        losses = [segment.loss for segment in self.candidates]
        if len(losses) < self.recipe.converge or losses[0] > min(losses):
            return
        self.converged_at = self.candidates[0].last
        self.threshold = (1 + self.recipe.ratio) * sum(losses) / len(losses)
        self.valley = ModelMean(self.candidates[0].module)
        spare = self.recipe.tolerance - self.recipe.converge
        if spare < 0:
            following = list(self.candidates)[1 : 1 - spare]
        elif spare == 0:
            following = []
        else:
            oldest = list(self.window)[: spare + 1]
            over = [place for place, segment in enumerate(oldest) if segment.loss > self.threshold]
            following = oldest[over[-1] + 2 :] if over else oldest[1:]
        for segment in following:
            self.valley.merge(segment)

    def _smallest_loss(self) -> float:
        return min(segment.loss for segment in self.window)

    def result(self) -> ModelMean:
        """The averaged model, on the CPU; if the valley never began, the last segment."""
        if self.valley is None:
            return self.candidates[-1]
        if not self.dead:
            self.window.popleft()
            while self.window and self._smallest_loss() <= self.threshold:
                self.valley.merge(self.window.popleft())
        return self.valley
