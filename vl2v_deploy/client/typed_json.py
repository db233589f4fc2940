"""JSON objects as frozen dataclasses and back: a key is a field's name, and types are checked when read.

A field may be a str, int, float, bool or `object` (anything), a Literal, T | None, tuple[T, ...],
Mapping[str, T] or another dataclass. Unknown keys are ignored; missing ones take the field's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
# Metadata of a field that is None by default. LEFT_OUT: None is a key that is missing, read and written.
# INLINED: a dataclass whose keys stand among the object's own; it is there when its first key is.
LEFT_OUT, INLINED = {"left_out": True}, {"inlined": True}
KEY = "key"  # of the metadata: the field's key where that is no Python name
_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
_MOST = 1 << 63  # no whole number is as large: the others do not fit a float, nor a line
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which cannot be written out again


def from_json(kind: type[T], value: object, where: str = "") -> T:
    """`value`, as `json.loads` gave it, as a dataclass or one of the types above.

    where: what errors call it, such as "precisions.fp32"

    Raises ValueError that names the field, what was expected and what was found.

    >>> from_json(tuple[int, ...], [1, "2"], where="shape")
    Traceback (most recent call last):
    ValueError: shape[1]: expected a whole number, got '2'
    """
    made: T = _read(kind, value, where)
    return made


def to_json(value: object) -> Any:
    """The value for `json.dumps`; `from_json` reads it back."""
    if is_dataclass(value) and not isinstance(value, type):
        made: dict[str, Any] = {}
        for member in fields(value):
            found = getattr(value, member.name)
            if found is None and ("left_out" in member.metadata or "inlined" in member.metadata):
                continue
            made |= to_json(found) if "inlined" in member.metadata else {_key(member): to_json(found)}
        return made
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def _read(kind: Any, value: Any, where: str) -> Any:
    if kind is object:
        return value
    if is_dataclass(kind):
        return _read_object(kind, value, where)
    match get_origin(kind), get_args(kind):
        case None, _:
            numeric = kind is float and type(value) is int
            if (type(value) is kind or numeric) and _is_sound(value):
                return kind(value)
            raise _wrong(where, _NAMES[kind], value)
        case origin, kinds if origin in (Union, UnionType):
            if value is None and NoneType in kinds:
                return None
            fitting = [one for one in kinds if type(value) is one]
            return _read(fitting[0] if fitting else kinds[0], value, where)
        case origin, choices if origin is Literal:
            if value in choices and isinstance(value, str):
                return value
            raise _wrong(where, f"one of {', '.join(choices)}", value)
        case origin, (item, *_) if origin is tuple:
            if not isinstance(value, list):
                raise _wrong(where, "a list", value)
            return tuple(_read(item, one, f"{where}[{number}]") for number, one in enumerate(value))
        case origin, (_, item) if origin is Mapping:
            if not isinstance(value, dict):
                raise _wrong(where, "an object", value)
            for key in value:
                if not _is_sound(key):
                    raise _wrong(where, "a string as key", key)
            return {key: _read(item, one, _below(where, key)) for key, one in value.items()}
    raise TypeError(f"{kind}: not a type that is read from JSON")


def _read_object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints, given = _hints(kind), {}
    for member in fields(kind):
        key, hint = _key(member), hints[member.name]
        if "inlined" in member.metadata:
            inner = get_args(hint)[0]
            if _key(fields(inner)[0]) in value:
                given[member.name] = _read(inner, value, where)
        elif key in value:
            given[member.name] = _read(hint, value[key], _below(where, key))
        elif member.default is MISSING:
            raise ValueError(f"{_below(where, key)}: is missing")
    return kind(**given)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _key(member: Field[Any]) -> str:
    return str(member.metadata.get(KEY, member.name))


def _is_sound(value: Any) -> bool:
    """Whether a text can be written out again, and a whole number is of a size that means something."""
    match value:
        case str():
            return _SURROGATE.search(value) is None
        case int():
            return -_MOST < value < _MOST
    return True


def _below(where: str, key: str) -> str:
    shown = key if key.isprintable() and len(key) <= 60 else _cut(repr(key))
    return f"{where}.{shown}" if where else shown


def _wrong(where: str, expected: str, value: object) -> ValueError:
    got = "null" if value is None else _cut(repr(value))
    return ValueError(f"{where or 'the whole'}: expected {expected}, got {got}")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
