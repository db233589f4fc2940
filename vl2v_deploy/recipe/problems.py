"""Errors of pydantic in the words of this package: field, what was expected, what was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

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
        parts = [str(part) for part in problem["loc"] if not UNION_MEMBER.search(str(part))]
        if problem["type"] == "extra_forbidden":
            message = f"unknown field{_known_fields(model, problem['loc'])}"
        elif problem["type"] == "missing":
            message = "is required"
        else:
            words, given = problem["msg"].removeprefix("Value error, "), problem["input"]
            shown = "" if isinstance(given, dict) else f" (got {given!r})"
            message = f"{words[0].lower()}{words[1:]}{shown}"
        problems.setdefault(".".join(parts), message)
    return problems


def _known_fields(model: type[BaseModel], location: Sequence[int | str]) -> str:
    for part in location[:-1]:
        if str(part) in model.model_fields:  # else an index or key of the field before
            annotation = model.model_fields[str(part)].annotation
            inside = [*get_args(annotation), annotation]
            sections = [a for a in inside if isinstance(a, type) and issubclass(a, BaseModel)]
            model = sections[0] if sections else model
    known = list(model.model_fields)
    return did_you_mean(str(location[-1]), known) or f"; known: {', '.join(known)}"
