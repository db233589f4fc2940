"""Errors of pydantic in the words of this package: field, what was expected, what was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vl2v_deploy.errors import did_you_mean

# pydantic reports each member of a union under a part of the location that it makes up.
UNION_MEMBER = re.compile(r"\[|^constrained-")


def problems_of(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    """What is wrong with each field, by its dotted name; "" for the whole.

    model: which was to be validated; its fields are what an unknown one may be a misspelling of

    >>> class Size(BaseModel, extra="forbid"):
    ...     width_px: int
    >>> try:
    ...     Size.model_validate({"widht_px": 3})
    ... except ValidationError as error:
    ...     problems_of(error, Size)
    {'width_px': 'is required', 'widht_px': "unknown field; did you mean 'width_px'?"}
    """
    problems: dict[str, str] = {}
    for problem in error.errors():
        parts, section = _place_of(problem["loc"], model)
        field = ".".join(parts)
        if problem["type"] == "extra_forbidden":
            known = list(section.model_fields)
            hint = did_you_mean(parts[-1], known) or f"; known: {', '.join(known)}"
            message = f"unknown field{hint}"
        elif problem["type"] == "missing":
            message = "is required"
        elif problem["type"] == "union_tag_invalid":
            field, tag = f"{field}.kind", problem["ctx"]["tag"]
            kinds = [kind.strip(" '") for kind in problem["ctx"]["expected_tags"].split(",")]
            message = f"unknown kind {tag!r}{did_you_mean(tag, kinds) or '; known: ' + ', '.join(kinds)}"
        else:
            words, given = problem["msg"].removeprefix("Value error, "), problem["input"]
            shown = "" if isinstance(given, dict) else f" (got {given!r})"
            message = f"{words[0].lower()}{words[1:]}{shown}"
        problems.setdefault(field, message)
    return problems


def _place_of(location: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The dotted name of a location as a file spells it, and the section that holds its last part."""
    parts: list[str] = []
    members: dict[str, type[BaseModel]] = {}  # of a union of sections, by kind
    for number, part in enumerate(map(str, location), 1):
        if part in members:
            model, members = members[part], {}
            continue
        if UNION_MEMBER.search(part):
            continue
        parts.append(part)
        if number < len(location) and part in model.model_fields:  # else an index or key of the field before
            sections = _sections(model.model_fields[part].annotation)
            members = {kind: of for of in sections if (kind := _kind(of))}
            if sections and not members:
                model = sections[0]
    return parts, model


def _sections(annotation: Any) -> list[type[BaseModel]]:
    inside = [*get_args(annotation), annotation]
    return [a for a in inside if isinstance(a, type) and issubclass(a, BaseModel)]


def _kind(section: type[BaseModel]) -> str | None:
    """The value of `kind` by which a union chooses this section."""
    field = section.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else None
