"""What a stage minimises, and which weights it trains, as the method's row says."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from vl2v_deploy.errors import ModelError
from vl2v_deploy.method.losses import LOSSES, Baselines, StudentOutput, Targets
from vl2v_deploy.models.student import Student, frozen_modules, frozen_projection
from vl2v_deploy.names import listed
from vl2v_deploy.recipe import Recipe, StageName, image_weight, method_of, stages_of


def loss_of(recipe: Recipe, stage: StageName, output: StudentOutput, targets: Targets) -> Tensor:
    """The mean loss of a batch in a stage of the recipe's method; scalar."""
    loss = method_of(recipe).loss
    assert loss is not None  # a method with stages has a loss
    return LOSSES[loss](output, targets, image_weight(recipe, stage), Baselines(recipe.baseline, recipe.rise))


def optimizer_of(recipe: Recipe, stage: StageName, parameters: dict[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of a stage, at the recipe's learning rate; fused where it can be."""
    tensors, rate = list(parameters.values()), stages_of(recipe)[stage].learning_rate
    match method_of(recipe).optimizer:
        case "adam":
            return torch.optim.Adam(tensors, lr=rate, fused=True)
        case "sgd":
            momentum, decay = recipe.rise.momentum, recipe.rise.weight_decay
            return torch.optim.SGD(tensors, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
        case other:
            assert_never(other)


def trained_parameters(student: Student, recipe: Recipe, stage: StageName) -> dict[str, Tensor]:
    """The parameters that a stage trains, by name; all others must stay bit-identical.

    A tower's own projection is among them where student.projection is trained.

    Raises ModelError where distill.frozen leaves none of them.
    """
    parts = tuple(f"{part}." for part in method_of(recipe).stages[stage])
    frozen = {*frozen_projection(student), *frozen_modules(student, recipe.distill.frozen)}
    named = student.named_parameters()
    trained: dict[str, Tensor] = {n: p for n, p in named if n.startswith(parts) and n not in frozen}
    if not trained and recipe.distill.frozen:
        raise ModelError(
            f"distill.frozen: {listed(recipe.distill.frozen)}: nothing is left that {stage} could train"
        )
    return trained
