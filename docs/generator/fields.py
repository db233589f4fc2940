"""What docstrings of this project say: prose, and one line for each argument or field."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

_FIELD = re.compile(r"^([a-z_*]\w*(?:, [a-z_*]\w*)*): +(.*)$")


def prose_and_fields(docstring: str | None) -> tuple[str, dict[str, str]]:
    """A docstring without its fields, and the fields by name; lines that are indented go on with a field.

    >>> prose_and_fields("Sizes.\\n\\nwidth, height: in pixels,\\n    both even")
    ('Sizes.', {'width': 'in pixels, both even', 'height': 'in pixels, both even'})
    >>> prose_and_fields("An array is\\nused at once: pass a copy.")
    ('An array is\\nused at once: pass a copy.', {})
    """
    prose: list[str] = []
    fields: dict[str, str] = {}
    last: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        found = _FIELD.match(line)
        if found:
            last = [name.strip() for name in found[1].split(",")]
            fields |= dict.fromkeys(last, found[2])
        elif last and line.startswith(" "):
            fields |= {name: f"{fields[name]} {line.strip()}" for name in last}
        else:
            last = []
            prose.append(line)
    return "\n".join(prose).strip(), fields


def cell(text: str) -> str:
    """A text inside a cell of a Markdown table, not taken for HTML or a column's end; `code` stays as it is.

    >>> cell("a_b <c> | `d_e <f>`")
    'a\\\\_b &lt;c> \\\\| `d_e <f>`'
    """
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # a backtick without its other half
        return _escaped("`".join(parts))
    return "`".join(
        part.replace("|", "\\|") if number % 2 else _escaped(part) for number, part in enumerate(parts)
    )


def _escaped(text: str) -> str:
    return re.sub(r"([|\[\]*_])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def code(text: str) -> str:
    """A text as code in a cell; nothing for nothing."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def table(columns: Mapping[str, str], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table. columns: title by its rule, such as {"field": "---"}"""
    lines = ["", "| " + " | ".join(columns) + " |", "|" + "|".join(columns.values()) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]
