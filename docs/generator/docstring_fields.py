"""An extension of griffe, which mkdocstrings reads code with: our docstrings as Markdown."""

from __future__ import annotations

import re
from typing import Any

from fields import prose_and_fields
from griffe import Extension, Object

DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


def not_html(text: str) -> str:
    """A text whose <names in angle brackets> a browser shows, outside `code`."""
    parts = text.split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


class DocstringFields(Extension):
    """Fields and arguments of a docstring become a list, its examples blocks of code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            prose, fields = prose_and_fields(obj.docstring.value)
            prose = DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", prose)
            listed = "\n".join(f"- `{name}`: {not_html(said)}" for name, said in fields.items())
            obj.docstring.value = f"{prose}\n\n{listed}" if listed else prose
