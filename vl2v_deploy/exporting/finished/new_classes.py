"""New classes for a bundle: their texts, made by its recipe, and the recipe that then holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.data.prompts import class_prompts, classes_from_file
from vl2v_deploy.errors import DataError, RecipeError
from vl2v_deploy.models.run_directory import RECIPE
from vl2v_deploy.recipe import Recipe, load_run_recipe

Prompts = dict[str, tuple[str, ...]]
# What --set may change in a relabelling: how classes are named, and where the teacher is now.
_SETTABLE = ("teacher.", "prompts.", "data.class_names")
_PER_DOMAIN = ("per_domain", "per_domain_size", "per_domain_sources")


@dataclass(frozen=True)
class NewClasses:
    """The classes that a bundle is relabelled to.

    prompts: for each class its texts, in the order of the logits
    recipe:  the bundle's, with these classes and prompts
    """

    prompts: Prompts
    recipe: Recipe

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.prompts)


def new_classes(bundle: Bundle, file: Path, overrides: Sequence[str] = ()) -> NewClasses:
    """The classes of a file, and the texts that the bundle's recipe makes of them.

    A class of the bundle for which the file gives only the name keeps its texts.

    file:      as data.prompts.classes_from_file reads it
    overrides: fields of the bundle's recipe, as `--set` takes them: prompts, teacher, data.class_names

    Raises DataError for a file that cannot be used, fewer than two classes, or two with the same
    texts; RecipeError for an override that is not about naming classes, or a style that names none.
    """
    for override in overrides:
        if not override.strip().startswith(_SETTABLE):
            raise RecipeError(
                f"--set {override}: expected a field of prompts or teacher, or data.class_names: all else of "
                "the recipe went into the student and cannot be changed afterwards"
            )
    recipe = load_run_recipe(bundle.listed(RECIPE), overrides)
    source = f"--classes {file}"
    given = classes_from_file(file, source)
    _require_usable(given, source)
    domains, target = _domains(bundle, recipe)
    words = {name: value for name, value in given.items() if isinstance(value, str)}
    own: Prompts = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    named = [name for name, value in given.items() if value is None and name in bundle.classes]
    if named:
        kept = class_prompts(recipe.prompts, recipe.data, bundle.classes, domains, target)
        own |= {name: texts for name, texts in zip(bundle.classes, kept, strict=True) if name in named}
    data = recipe.data.model_copy(update={"classes": tuple(given), "class_names": words})
    prompts = recipe.prompts.model_copy(update={"per_class": own or None})
    texts = class_prompts(prompts, data, tuple(given), domains, target)
    made = dict(zip(given, texts, strict=True))
    _require_different(made, source)
    return NewClasses(made, recipe.model_copy(update={"data": data, "prompts": prompts}))


def _domains(bundle: Bundle, recipe: Recipe) -> tuple[tuple[str, ...], str]:
    """Names of all domains and of the target, from the manifest: the images are not needed."""
    style = recipe.prompts.style
    if style == "class_index":
        raise RecipeError(
            f"{bundle.path / RECIPE}: prompts.style is class_index, which names no class; give a style that "
            "does, such as --set prompts.style=photo"
        )
    accuracy = bundle.manifest.distilled_accuracy
    domains = tuple(accuracy.student) if accuracy else ()
    if style in _PER_DOMAIN and not domains:
        raise RecipeError(
            f"{bundle.path / RECIPE}: prompts.style is {style}, and the manifest does not say which domains "
            "there are; give another, such as --set prompts.style=photo"
        )
    return domains, accuracy.target if accuracy else recipe.data.target


def _require_usable(given: Mapping[str, Any], source: str) -> None:
    if len(given) < 2:
        raise DataError(f"{source}: expected at least two classes, got {len(given)}")
    for name, value in given.items():
        if not name or name != name.strip() or len(name.splitlines()) != 1:
            raise DataError(f"{source}: {name!r}: expected a class on one line, without spaces around it")
        texts = value if isinstance(value, list) else [name if value is None else value]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(
                f"{source}: {name}: expected its name in prompts, a list of whole prompts, or nothing; "
                f"got {value!r}"
            )


def _require_different(prompts: Prompts, source: str) -> None:
    first: dict[tuple[str, ...], str] = {}
    for name, texts in prompts.items():
        other = first.setdefault(texts, name)
        if other != name:
            raise DataError(
                f"{source}: {other!r} and {name!r} have the same prompts ({texts[0]!r}, ...): no answer "
                "could tell them apart"
            )
