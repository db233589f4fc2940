"""Errors of pydantic, by field: unions, lists, dicts and sections of several kinds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from vl2v_deploy.recipe.problems import problems_of


class _Circle(BaseModel, extra="forbid"):
    kind: Literal["circle"]
    radius: int


class _Line(BaseModel, extra="forbid"):
    kind: Literal["line"]
    length: int


class _Drawing(BaseModel, extra="forbid"):
    one: Annotated[_Circle | _Line, Field(discriminator="kind")] | None = None
    several: tuple[Annotated[_Circle | _Line, Field(discriminator="kind")], ...] = ()
    named: dict[str, _Line] = {}
    texts: dict[str, tuple[str, ...]] | str | None = None


@pytest.mark.parametrize(
    ("tree", "field", "message"),
    [
        ({"one": {"kind": "line", "length": 1, "lenght": 1}}, "one.lenght", "did you mean 'length'"),
        ({"several": [{"kind": "circle", "radius": "x"}]}, "several.0.radius", "valid integer"),
        ({"several": [{"kind": "lime"}]}, "several.0.kind", "did you mean 'line'"),
        # a key that is called like a field of the section below it
        ({"named": {"length": {"kind": "line", "length": 1, "lngth": 1}}}, "named.length.lngth", "'length'"),
        ({"texts": {"big [red] cat": 3}}, "texts.big [red] cat", "valid tuple"),
        ({"texts": {"cat": ["a", 3]}}, "texts.cat.1", "valid string (got 3)"),
        ({"texts": 3}, "texts", "valid dictionary (got 3)"),
    ],
)
def test_a_problem_is_named_as_the_file_spells_it(tree: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Drawing.model_validate(tree)
    problems = problems_of(caught.value, _Drawing)
    assert list(problems) == [field] and message in problems[field]
