"""The page of the fields of manifest.json and run.json, from the types through which they are read."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any

from fields import cell, code, prose_and_fields, table
from pydantic import BaseModel

from vl2v_deploy.client.manifest import FORMAT, Manifest
from vl2v_deploy.client.typed_json import KEY
from vl2v_deploy.models.record import RunRecord


def records_page() -> str:
    """Every field of a bundle's manifest and of a run's record."""
    lines = [
        "# Manifest and run record",
        "",
        "Made from the types through which the files are read. An older format is read, or refused in a line",
        "that says what to do.",
        "",
        f"## `manifest.json` of a bundle, format {FORMAT}",
        "",
    ]
    return "\n".join([*lines, *_all(Manifest), "## `run.json` of a run", "", *_all(RunRecord)])


def _all(top: type) -> list[str]:
    lines: list[str] = []
    waiting, seen = [top], {top}
    while waiting:
        kind = waiting.pop(0)
        hints = _hints(kind)
        lines += _section(kind, hints)
        for inner in (part for hint in hints.values() for part in _records(hint)):
            if inner not in seen:
                seen.add(inner)
                waiting.append(inner)
    return lines


def _hints(kind: type) -> dict[str, Any]:
    """Types of the fields, by the key that the file has."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    hints = typing.get_type_hints(kind)
    return {field.metadata.get(KEY, field.name): hints[field.name] for field in dataclasses.fields(kind)}


def _records(hint: Any) -> list[type]:
    if isinstance(hint, type) and (issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint)):
        return [hint]
    return [kind for part in typing.get_args(hint) for kind in _records(part)]


def _section(kind: type, hints: dict[str, Any]) -> list[str]:
    made = (kind.__doc__ or "").startswith(f"{kind.__name__}(")  # by dataclass, where nobody wrote one
    prose, said = prose_and_fields(None if made else kind.__doc__)
    rows = [(code(key), code(_name(hint)), cell(said.get(key, ""))) for key, hint in hints.items()]
    columns = {"field": "---", "type": "---", "what it is": "---"}
    return [f"### {kind.__name__}", "", cell(prose), *table(columns, rows)]


def _name(hint: Any) -> str:
    """A type as Python writes it, without modules."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__.replace("NoneType", "None")
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(_name(part) for part in typing.get_args(hint))
    return re.sub(r"\w+\.(?=\w)", "", str(hint)).replace("NoneType", "None")
