"""The learning rate of a step. Source: SGDR (Loshchilov and Hutter, ICLR 2017), one period, with warm-up."""

from __future__ import annotations

import math

from vl2v_deploy.recipe import StageRecipe


def learning_rate(recipe: StageRecipe, step: int) -> float:
    """The learning rate of a stage's step: a function of the step alone, so that a run can go on from any.

    During warm-up it is (step + 1) / (warm-up steps + 1) of the recipe's. With `cosine` the share of the
    other steps that is over, p, gives (1 + cos(pi p)) / 2 of it: 1 in the first of them, above 0 in the last.

    step: 0, 1, ..., recipe.steps - 1

    >>> recipe = StageRecipe(steps=5, learning_rate=0.5, warmup=1, schedule="cosine")
    >>> [round(learning_rate(recipe, step), 3) for step in range(5)]
    [0.25, 0.5, 0.427, 0.25, 0.073]
    """
    warmup = recipe.warmup_steps
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    over = (step - warmup) / (recipe.steps - warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * over)) / 2
