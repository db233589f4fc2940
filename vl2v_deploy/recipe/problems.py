"""Errors of pydantic in the words of this package: field, what was expected, what was given."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import date
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from vl2v_deploy.errors import did_you_mean
from vl2v_deploy.names import shortened, shown

# YAML reads an unquoted yes, no, on, off, 1, 1e3 or 2024-01-31 as something else than text.
QUOTE_IT = 'where a name is meant, quote it: "...", and on the command line --set \'FIELD="..."\''
MOST_PROBLEMS = 20  # that are told of one file
# pydantic may find one at every value; each is compared with every other, and with all that is known.
_MOST_READ = 10 * MOST_PROBLEMS
_MOST_OF_NAME, _MOST_OF_MESSAGE = 120, 600  # characters
_NO_LIST = ("tuple_type", "list_type")  # pydantic's names of the problem that something is none
KEY_OF_DICT = "[key]"  # pydantic's last part of a location, where a key is wrong and not its value


class Unshown(ValueError):
    """A validator's complaint about a value that may hold a secret: it is not repeated."""


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
    for problem in error.errors(include_url=False)[:_MOST_READ]:
        parts, section = _place_of(problem["loc"], model)
        field = _cut(".".join(parts), _MOST_OF_NAME)
        if problem["type"] == "extra_forbidden":
            known = list(section.model_fields)
            hint = did_you_mean(parts[-1][:_MOST_OF_NAME], known) or f"; known: {', '.join(known)}"
            message = f"unknown field{hint}"
        elif problem["type"] == "missing":
            message = "is required"
        elif problem["type"] == "union_tag_invalid":
            field, tag = f"{field}.kind", _cut(str(problem["ctx"]["tag"]), _MOST_OF_NAME)
            kinds = [kind.strip(" '") for kind in problem["ctx"]["expected_tags"].split(",")]
            message = f"unknown kind {tag!r}{did_you_mean(tag, kinds) or '; known: ' + ', '.join(kinds)}"
        else:
            words, given = problem["msg"].removeprefix("Value error, "), problem["input"]
            if problem["type"] in _NO_LIST:
                words = "is no list"  # and not "no valid tuple", which a YAML file does not have
            is_secret = isinstance(problem.get("ctx", {}).get("error"), Unshown)
            shown = "" if isinstance(given, dict) or is_secret else f" (got {shortened(given)})"
            message = f"{words[0].lower()}{words[1:]}{shown}"
            if problem["type"] == "string_type" and isinstance(given, bool | int | float | date):
                message += f"; {QUOTE_IT}"
            meant = isinstance(given, str) and not is_secret and ("," in given or problem["type"] in _NO_LIST)
            if meant and _is_list(section, parts):
                message += _in_brackets(field, given)
        problems.setdefault(field, _cut(message, _MOST_OF_MESSAGE))
    # pydantic tries a list as a text too: where an item is wrong, that the whole is no text says nothing.
    told = {
        field: message
        for field, message in problems.items()
        if not any(other.startswith(f"{field}.") for other in problems)
    }
    if len(told) > MOST_PROBLEMS:
        told = dict(list(told.items())[:MOST_PROBLEMS])
        told["and more problems"] = "repair these first"
    return told


def _is_list(section: type[BaseModel], parts: Sequence[str]) -> bool:
    """Whether what these parts lead to is a field of the section that may be a list."""
    field = section.model_fields.get(parts[-1]) if parts else None
    kinds = [] if field is None else [get_origin(choice) or choice for choice in _choices(field.annotation)]
    return any(kind in (tuple, list) for kind in kinds)


def _in_brackets(field: str, given: str) -> str:
    """How a text that was meant as a list is written as one; "" where it is too long to be repeated."""
    items = [item.strip() for item in given.split(",") if item.strip()]
    if not items or len(given) > _MOST_OF_NAME:
        return ""
    written = ""
    for style in (None, '"'):  # single quotes, where it has any, would be hard to read in a shell's own
        written = yaml.safe_dump(
            items, default_flow_style=True, default_style=style, allow_unicode=True, width=float("inf")
        ).strip()
        if "'" not in written:
            break
    return f"; a list stands in brackets: --set {shlex.quote(f'{field}={written}')}"


def _cut(text: str, most: int) -> str:
    plain = shown(text)
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def _place_of(location: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The dotted name of a location as a file spells it, and the section that holds its last part.

    pydantic puts a part of its own after each field that may be of several types: which of them it tried.
    """
    parts: list[str] = []
    section = model
    kind: Any = model  # of what the parts so far lead to
    for part in map(str, location):
        choices = _choices(kind)
        if part == KEY_OF_DICT:
            continue
        if len(choices) > 1:
            kind = next((choice for choice in choices if _is_called(choice, part)), None)
            continue
        parts.append(part)
        inside = choices[0] if choices else None
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            section = inside
            kind = inside.model_fields[part].annotation if part in inside.model_fields else None
        else:  # an index of a tuple or list, a key of a dict
            items = [item for item in get_args(inside) if item is not ...]
            kind = items[-1] if items else None
    return parts, section


def _choices(kind: Any) -> list[Any]:
    """The types that a value of this one may be of, without None."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        choices = [choice for choice in get_args(kind) if choice is not NoneType]
        return choices if len(choices) > 1 else _choices(choices[0])
    return [kind]


def _is_called(choice: Any, part: str) -> bool:
    """Whether pydantic means this member of a union: by its `kind`, or by its type."""
    [inside, *_] = _choices(choice)
    if isinstance(inside, type) and issubclass(inside, BaseModel):
        field = inside.model_fields.get("kind")
        return part == inside.__name__ or (field is not None and part in get_args(field.annotation))
    return part.startswith(getattr(get_origin(inside) or inside, "__name__", str(inside)))
