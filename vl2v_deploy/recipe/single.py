"""What a recipe of one method says about its run: the method's row, completed by the recipe's settings."""

from __future__ import annotations

from typing import assert_never

from vl2v_deploy.recipe.methods import METHODS, Method, StageName
from vl2v_deploy.recipe.training import StageRecipe
from vl2v_deploy.recipe.whole import Recipe, methods_of


def method_of(recipe: Recipe) -> Method:
    """The table's row of the recipe's one method."""
    [name] = methods_of(recipe)
    return METHODS[name]


def stages_of(recipe: Recipe) -> dict[StageName, StageRecipe]:
    """The settings of each training stage that the method has, in order."""
    return {name: _settings(recipe, name) for name in method_of(recipe).stages}


def image_weight(recipe: Recipe, stage: StageName) -> float:
    """Lambda of a stage: the method's own where it fixes one, else the recipe's."""
    fixed = method_of(recipe).image_weight
    return _settings(recipe, stage).image_weight if fixed is None else fixed


def asks_about_training_images(recipe: Recipe) -> bool:
    """Whether training needs the teacher's embeddings of the training images."""
    match method_of(recipe).teacher_images:
        case "always":
            return True
        case "never":
            return False
        case "weighted":
            return any(image_weight(recipe, stage) > 0 for stage in stages_of(recipe))
        case other:
            assert_never(other)


def unlabelled_per_step(recipe: Recipe, stage: StageName) -> int:
    """How many images without labels a step of the stage has; 0 where the method cannot use them."""
    return _settings(recipe, stage).unlabelled_per_step if method_of(recipe).unlabelled else 0


def trains_on_unlabelled(recipe: Recipe) -> bool:
    """Whether a stage of the method trains on `data.unlabelled`."""
    return any(unlabelled_per_step(recipe, stage) for stage in stages_of(recipe))


def measures_agreement(recipe: Recipe) -> bool:
    """Whether student and teacher are compared on a part of `data.unlabelled` that is held out for it."""
    return bool(recipe.data.unlabelled and recipe.data.unlabelled_held_out and method_of(recipe).student)


def teacher_labels(recipe: Recipe) -> float | None:
    """How often the teacher's labels of images without one have to be right; None where none are used."""
    return recipe.teacher_labels if trains_on_unlabelled(recipe) else None


def selects_on_target(recipe: Recipe) -> bool:
    """Whether a stage of the method chooses its weights on the target domain: then the run is an oracle."""
    return any(settings.averaging == "oracle" for settings in stages_of(recipe).values())


def _settings(recipe: Recipe, stage: StageName) -> StageRecipe:
    match stage:
        case "align":
            return recipe.align
        case "distill":
            return recipe.distill
        case other:
            assert_never(other)
