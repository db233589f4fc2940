"""YAML from anyone: a tree of plain values within limits, or one line that says where it goes wrong.

PyYAML's safe loader runs no code, but it builds whatever a text describes. A kilobyte of aliases can describe
billions of values (the "billion laughs"), brackets can nest deeper than Python recurses, and some tags and
numbers end in a ValueError. So the text is read as events first, and only what is within limits is built.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vl2v_deploy.errors import VL2VError
from vl2v_deploy.names import shortened, shown
from vl2v_deploy.regular_files import open_regular

MOST_BYTES = 8_000_000  # of a file
MOST_VALUES = 200_000  # keys and values together, those that aliases repeat counted each time
MOST_DEPTH = 64
MOST_DIGITS = 100  # of a whole number
_MOST_SHOWN = 400  # characters of what is wrong
# What constructors of the safe loader let through for a text that is none of their type, such as !!int abc.
_FOREIGN = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
_Base: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def tree_of_file(path: Path | str, error: type[VL2VError]) -> Any:
    """The values in a YAML file, UTF-8.

    error: what is raised, in one line, when the file cannot be read or `tree_from_yaml` refuses its text
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise error(f"{shown(path)}: is larger than {MOST_BYTES:,} bytes: refused")
        return tree_from_yaml(content.decode("utf-8-sig"))
    except OSError as problem:
        raise error(f"{shown(path)}: cannot be read: {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise error(
            f"{shown(path)}: is not UTF-8 text: {problem.reason} at byte {problem.start}"
        ) from problem
    except yaml.YAMLError as problem:
        raise error(f"{shown(path)}: is not YAML that can be used: {problem_in(problem)}") from problem
    except ValueError as problem:  # a path with a NUL
        raise error(f"{shown(path)}: cannot be read: {problem}") from problem


def tree_from_yaml(text: str) -> Any:
    """The values that a YAML text describes, as yaml.safe_load gives them; a key may occur once only.

    Raises yaml.YAMLError, and nothing else, when it is not YAML or beyond the limits above.

    >>> tree_from_yaml("steps: 200")
    {'steps': 200}
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise yaml.YAMLError(f"holds a byte that is no UTF-8, at character {error.start}") from error
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"is longer than {MOST_BYTES:,} characters")
    _require_limits(text)
    return yaml.load(text, Loader=_Loader)


def problem_in(error: yaml.YAMLError) -> str:
    """What is wrong and where, on one line of bounded length."""
    words = shown(" ".join(str(error).replace('"<unicode string>", ', "").split()))
    return words if len(words) <= _MOST_SHOWN else f"{words[: _MOST_SHOWN - 3]}..."


class _Loader(_Base):  # type: ignore[misc]
    """The safe loader, whose every failure is a YAMLError with its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MOST_DIGITS:
                raise ValueError(f"more than {MOST_DIGITS} digits")
            return super().construct_object(node, deep)
        except _FOREIGN as error:
            kind = str(node.tag).rpartition(":")[2]
            why = f": {error}" if type(error) is ValueError else ""  # others are of PyYAML's inside
            what = f"{shortened(node.value)} is not of YAML's type {shortened(kind)}{why}"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from error


@dataclass
class _Open:
    """A list or mapping whose end has not come yet; values: in it so far, itself among them."""

    anchor: str | None
    is_mapping: bool
    values: int = 1
    parts: int = 0
    keys: set[str] = field(default_factory=set)

    @property
    def expects_key(self) -> bool:
        return self.is_mapping and self.parts % 2 == 0


def _require_limits(text: str) -> None:
    """MarkedYAMLError where the text describes too much, nests too deeply or has a key twice."""
    opened: list[_Open] = []
    values_of: dict[str, int] = {}  # by anchor
    total = 0
    for event in yaml.parse(text, Loader=_Base):
        match event:
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                opened.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
                if len(opened) > MOST_DEPTH:
                    raise _wrong(f"nests deeper than {MOST_DEPTH} levels", event)
                continue
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = opened.pop()
                values, anchor = closed.values, closed.anchor
                total += 1
            case yaml.ScalarEvent():
                _check_scalar(event, opened[-1] if opened else None)
                values, anchor = 1, event.anchor
                total += 1
            case yaml.AliasEvent():
                if event.anchor in {one.anchor for one in opened}:
                    raise _wrong(f"*{event.anchor} stands within itself", event)
                values, anchor = values_of.get(event.anchor or "", 1), None
                total += values
            case _:
                continue
        if anchor is not None:
            values_of[anchor] = values
        if opened:
            opened[-1].values += values
            opened[-1].parts += 1
        if total > MOST_VALUES:
            raise _wrong(f"describes more than {MOST_VALUES:,} values", event)


def _check_scalar(event: yaml.ScalarEvent, within: _Open | None) -> None:
    if any("\ud800" <= character <= "\udfff" for character in event.value):
        raise _wrong(f"{shortened(event.value)} holds half a character, which is no text", event)
    if within is not None and within.expects_key:
        if event.value in within.keys:
            raise _wrong(f"the key {shortened(event.value)} occurs twice", event)
        within.keys.add(event.value)


def _wrong(what: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = event.start_mark  # of PyYAML's Python or C half, which type checkers do not know to be alike
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)
