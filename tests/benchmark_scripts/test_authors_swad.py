"""The yardstick's SWAD keeps the books as the authors' code does, which is not as their algorithm says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn

from benchmarks.peers.deep_copies import LossValley, ModelMean
from vl2v_deploy.recipe import SwadRecipe


def scalar(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def valley_of(losses: Sequence[float], converge: int, tolerance: int) -> LossValley:
    """Segment i is a model whose only weight is 10^i, so that a mean tells which segments are in it."""
    valley = LossValley(SwadRecipe(converge=converge, tolerance=tolerance, ratio=0.3))
    for number, loss in enumerate(losses):
        segment = ModelMean(scalar(10.0**number))
        segment.add(scalar(10.0**number), number, number)
        valley.close(segment, loss)
    return valley


@pytest.mark.parametrize(
    ("losses", "converge", "tolerance", "segments", "dead"),
    [
        # falling to the end: the last segment alone
        ([4, 3, 2, 1], 3, 6, [3], False),
        # begins at 0; the models are 1 and 2, then 0 at each of three evaluations, then 1, and what is left
        ([1, 1, 1], 3, 6, [1, 2, 1, 2], False),
        ([1, 1, 1, 1], 3, 6, [1, 2, 0, 1, 2, 3], False),
        ([1] * 7, 3, 6, [1, 2, 0, 0, 0, 1, 2, 3, 4, 5, 6], False),
        # begins at 1, as 0 is worse than 1; 0 still leads the window of six, which is then no reason to go on
        ([5, 1, 1, 1], 3, 6, [2, 3, 1, 2, 3], False),
        ([5, 1, 1, 1, 1], 3, 6, [2, 3, 1, 2, 3, 4], False),
        # N_e = N_s: nothing is added at the start, and two segments over the threshold end it
        ([1, 1, 9, 9, 9], 2, 2, [1], True),
        ([1, 1, 1, 1], 2, 2, [1, 2, 3], False),
        # N_e < N_s: what lies between joins at once
        ([1, 1, 1, 9], 3, 1, [1, 2], True),
    ],
)
def test_the_valley_holds_the_segments_that_their_rule_gives(
    losses: list[float], converge: int, tolerance: int, segments: list[int], dead: bool
) -> None:
    valley = valley_of(losses, converge, tolerance)
    assert valley.dead == dead
    mean = valley.result().module.weight.item()
    assert mean == pytest.approx(np.mean([10.0**number for number in segments]), rel=1e-5)


def test_a_mean_is_of_the_models_added_and_leaves_them_alone() -> None:
    model = scalar(7.0)
    mean = ModelMean(model)
    for step, value in enumerate((1.0, 2.0, 6.0)):
        mean.add(scalar(value), step, step)
    assert mean.module.weight.item() == pytest.approx(3.0)  # and the 7 it was made of counts for nothing
    assert (mean.first, mean.last, mean.count) == (0, 2, 3)
    assert model.weight.item() == 7.0
