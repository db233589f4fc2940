"""Recipes on disk: YAML read, `--set` overrides applied, written out again in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.names import shortened, shown
from vl2v_deploy.recipe.inputs import BUILTIN_UNLABELLED, Section
from vl2v_deploy.recipe.methods import RENAMED
from vl2v_deploy.recipe.whole import Recipe, recipe_from_tree
from vl2v_deploy.recipe.yaml_text import MOST_DEPTH, problem_in, tree_from_yaml, tree_of_file

_MOST_OF_OVERRIDE = 200  # characters of a --set override that an error repeats


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, overrides applied; relative paths become relative to that file's folder.

    overrides: 'field.subfield=value' each, the value in YAML; as the CLI's --set takes them

    Raises RecipeError with one line for each problem: file, field, what was expected.
    """
    path = Path(path)
    return _recipe_of_file(path, _read(path), overrides)


def load_run_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe.yaml of a run or bundle, as it was meant by the version that wrote it.

    Raises what load_recipe raises.
    """
    path = Path(path)
    return _recipe_of_file(path, as_written(_read(path)), overrides)


def as_written(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A whole recipe's tree, where an older version wrote it with what it did then in so many words."""
    if "validation_mean" in tree:
        return dict(tree)
    older = {**tree, "validation_mean": "images"}
    method = tree.get("method")
    if isinstance(method, str) and method in RENAMED:
        older["method"] = RENAMED[method]
    data = tree.get("data")
    split = data.get("split") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(split, dict):
        split = {"duplicates": "allow"} | split
        older["data"] = {"unlabelled_held_out": 0.0} | data | {"split": split}
    return older


def _read(path: Path) -> dict[str, Any]:
    tree = tree_of_file(path, RecipeError)
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{shown(path)}: expected sections such as data:, teacher:, student:, got {type(tree).__name__}"
        )
    return tree


def _recipe_of_file(path: Path, tree: dict[str, Any], overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        _apply_override(tree, override)
    recipe = recipe_from_tree(tree, source=shown(path))
    return _resolve_paths(recipe, path.parent, source=shown(path))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads it back unchanged."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    return str(text)


def recipe_json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors (`# yaml-language-server: $schema=...`)."""
    return Recipe.model_json_schema()


def _apply_override(tree: dict[str, Any], override: str) -> None:
    field, equals, text = override.partition("=")
    keys = field.strip().split(".")
    told = told_of(override)
    if not equals or not all(keys):
        raise RecipeError(f"{told}: expected FIELD=VALUE, such as distill.steps=200")
    if len(keys) > MOST_DEPTH:
        raise RecipeError(f"{told}: expected a field at most {MOST_DEPTH} levels deep")
    try:
        value = tree_from_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{told}: the value is not YAML that can be used: {problem_in(error)}") from error
    node: dict[str, Any] = tree
    section: type[Section] | None = Recipe
    for key in keys[:-1]:
        section = _section_of(section, key)
        child = node.get(key) if section is None else section.written_out(node.get(key))
        node[key] = child
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"{told}: {shown(key)} holds a value, not a section")
        node = child
    node[keys[-1]] = value


def told_of(override: str) -> str:
    """A --set override as errors name it: on one line, cut where it is long."""
    text = shown(override)
    return f"--set {text}" if len(text) <= _MOST_OF_OVERRIDE else f"--set {text[:_MOST_OF_OVERRIDE]}..."


def _section_of(section: type[Section] | None, key: str) -> type[Section] | None:
    """The section that a field of a section holds; None where it is no section, or one of several kinds."""
    field = None if section is None else section.model_fields.get(key)
    kind = None if field is None else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _resolve_paths(recipe: Recipe, base: Path, source: str) -> Recipe:
    """The recipe with every relative path made absolute; RecipeError for one that no system can have."""

    def absolute(text: str) -> str:
        try:
            return str((base / Path(text).expanduser()).resolve())
        # an unknown ~user or a circle of links, a NUL, a name that is too long
        except (RuntimeError, ValueError, OSError) as error:
            raise RecipeError(f"{source}: {shortened(text)}: is no path: {error}") from error

    data, student, prompts = recipe.data, recipe.student, recipe.prompts
    teacher = recipe.teacher.with_paths(absolute)
    if not data.root.startswith("builtin:"):
        data = data.model_copy(update={"root": absolute(data.root)})
    if data.manifest:
        data = data.model_copy(update={"manifest": absolute(data.manifest)})
    unlabelled = tuple(e if e == BUILTIN_UNLABELLED else absolute(e) for e in data.unlabelled)
    data = data.model_copy(update={"unlabelled": unlabelled})
    if student.is_weight_file:
        student = student.model_copy(update={"weights": absolute(student.weights)})
    if isinstance(data.class_names, str):
        data = data.model_copy(update={"class_names": absolute(data.class_names)})
    if isinstance(prompts.per_class, str):
        prompts = prompts.model_copy(update={"per_class": absolute(prompts.per_class)})
    if data.split.groups:
        split = data.split.model_copy(update={"groups": absolute(data.split.groups)})
        data = data.model_copy(update={"split": split})
    return recipe.model_copy(
        update={"data": data, "teacher": teacher, "student": student, "prompts": prompts}
    )
