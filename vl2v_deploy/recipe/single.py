"""What a recipe of one method says about its run: the method's row, completed by the recipe's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from vl2v_deploy.recipe.methods import METHODS, Method, StageName
from vl2v_deploy.recipe.protocol import ProtocolName, authors_settings
from vl2v_deploy.recipe.training import StageRecipe
from vl2v_deploy.recipe.whole import Recipe, methods_of


@dataclass(frozen=True)
class ProtocolSetting:
    """A field in which the authors' code departs from our defaults, and what the recipe has."""

    field: str
    used: Any
    authors: Any
    default: Any


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


def protocol_settings(recipe: Recipe) -> tuple[ProtocolSetting, ...]:
    """The fields of `authors_settings` that change something in the recipe's method."""
    method, stages = method_of(recipe), stages_of(recipe)
    settings = []
    for field, authors in authors_settings(recipe.student.backbone).items():
        section, name = field.partition(".")[::2]
        if field.startswith(method.unused) or (section in ("align", "distill") and section not in stages):
            continue
        if name.startswith("swad.") and recipe_value(recipe, f"{section}.averaging") != "swad":
            continue
        if field == "teacher_views" and not asks_about_training_images(recipe):
            continue
        settings.append(ProtocolSetting(field, recipe_value(recipe, field), authors, _default(field)))
    return tuple(settings)


def protocol_name(recipe: Recipe) -> ProtocolName:
    """Whose settings a run of the recipe has, whichever way they were set."""
    settings = protocol_settings(recipe)
    if all(setting.used == setting.authors for setting in settings):
        return "authors"
    return "default" if all(setting.used == setting.default for setting in settings) else "mixed"


def recipe_value(recipe: Recipe, field: str) -> Any:
    """What a recipe has in a field, by its dotted name."""
    value: Any = recipe
    for name in field.split("."):
        value = getattr(value, name)
    return value


def _default(field: str) -> Any:
    """The schema's default of a field."""
    section: Any = Recipe
    *sections, last = field.split(".")
    for name in sections:
        section = section.model_fields[name].annotation
    return section.model_fields[last].default


def _settings(recipe: Recipe, stage: StageName) -> StageRecipe:
    match stage:
        case "align":
            return recipe.align
        case "distill":
            if method_of(recipe).optimizer == "sgd":
                return recipe.distill.model_copy(update={"learning_rate": recipe.rise.learning_rate})
            return recipe.distill
        case other:
            assert_never(other)
