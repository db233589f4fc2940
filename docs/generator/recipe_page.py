"""The page of all fields of a recipe, from the pydantic models that read it."""

from __future__ import annotations

import types
import typing
from typing import Any

from fields import cell, code, prose_and_fields, table
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vl2v_deploy.recipe import METHODS
from vl2v_deploy.recipe.whole import Recipe


def recipe_page() -> str:
    """Every section of a recipe and every field in it."""
    lines = [
        "# Fields of a recipe",
        "",
        "Made from the models that read a recipe. `vl2v-deploy recipe check FILE` prints a recipe with every",
        "default filled in, `vl2v-deploy recipe schema` the JSON Schema for your editor. Any field can be",
        "set on the command line: `--set distill.steps=200`.",
        "The methods: [methods and training](../methods.md).",
        "",
        f"`method` is one of {', '.join(code(name) for name in METHODS)}.",
        "",
    ]
    for path, model in _sections("", Recipe, set()):
        lines += _section(path, model)
    return "\n".join(lines)


def _sections(path: str, model: type[BaseModel], seen: set[tuple[str, type]]) -> list[tuple[str, Any]]:
    """(path, model) of a model and of all within, in the order of the fields."""
    found: list[tuple[str, Any]] = [(path, model)]
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            below = f"{path}.{name}".lstrip(".")
            if (below, inner) not in seen:
                seen.add((below, inner))
                found += _sections(below, inner, seen)
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _section(path: str, model: type[BaseModel]) -> list[str]:
    prose, _ = prose_and_fields(model.__doc__ if model.__doc__ != BaseModel.__doc__ else "")
    kind = model.model_fields.get("kind")
    title = f"`{path}`" if path else "The recipe itself"
    if kind is not None:
        title += f" with `kind: {typing.get_args(kind.annotation)[0]}`"
    rows = [
        (code(name), cell(field.description or _of_section(field)), code(_type(field)), _default(field))
        for name, field in model.model_fields.items()
    ]
    columns = {"field": "---", "what it is": "---", "type": "---", "default": "---"}
    return [f"## {title}", "", cell(prose.split("\n\n")[0]), *table(columns, rows)]


def _of_section(field: FieldInfo) -> str:
    return "a section, below" if _models(field.annotation) else ""


def _type(field: FieldInfo) -> str:
    """A type in the words of YAML: text, number, list of text."""
    bounds = [f"{sign} {value:g}" for sign, value in _bounds(field)]
    return _words(field.annotation) + (f", {', '.join(bounds)}" if bounds else "")


def _bounds(field: FieldInfo) -> list[tuple[str, float]]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return [
        (sign, getattr(rule, name))
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]


def _words(annotation: Any) -> str:
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    if annotation in plain:
        return plain[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(parts[0])
    if origin is typing.Literal:
        return " or ".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in parts))
    if origin in (tuple, list):
        return f"list of {_words(parts[0])}"
    if origin is not None and issubclass(origin, typing.Mapping):
        return f"mapping to {_words(parts[1])}"
    return "section" if _models(annotation) else getattr(annotation, "__name__", str(annotation)).lower()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True) if not _models(field.annotation) else ""
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    shown = (
        {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    )
    return code(shown or (", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)))
