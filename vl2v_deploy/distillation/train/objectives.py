"""What a stage minimises, and which weights it trains, as the method's row says."""

from __future__ import annotations

from torch import Tensor

from vl2v_deploy.method.losses import LOSSES, StudentOutput, Targets
from vl2v_deploy.models.student import Student, frozen_projection
from vl2v_deploy.recipe import Recipe, StageName, image_weight, method_of


def loss_of(recipe: Recipe, stage: StageName, output: StudentOutput, targets: Targets) -> Tensor:
    """The mean loss of a batch in a stage of the recipe's method; scalar."""
    loss = method_of(recipe).loss
    assert loss is not None  # a method with stages has a loss
    return LOSSES[loss](output, targets, image_weight(recipe, stage), recipe.baseline)


def trained_parameters(student: Student, recipe: Recipe, stage: StageName) -> dict[str, Tensor]:
    """The parameters that a stage trains, by name; all others must stay bit-identical.

    A tower's own projection is never among them.
    """
    parts = tuple(f"{part}." for part in method_of(recipe).stages[stage])
    frozen = frozen_projection(student)
    return {n: p for n, p in student.named_parameters() if n.startswith(parts) and n not in frozen}
