"""Errors of pydantic, by field: unions, lists, dicts and sections of several kinds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field, ValidationError

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.recipe import load_recipe
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
        ({"texts": {"big [red] cat": 3}}, "texts.big [red] cat", "is no list (got 3)"),
        ({"texts": {"cat": ["a", 3]}}, "texts.cat.1", "valid string (got 3)"),
        ({"texts": 3}, "texts", "valid dictionary (got 3)"),
    ],
)
def test_a_problem_is_named_as_the_file_spells_it(tree: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Drawing.model_validate(tree)
    problems = problems_of(caught.value, _Drawing)
    assert list(problems) == [field] and message in problems[field]


QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method=erm,kd", ["erm", "kd"]),  # one, or a list
        ("data.unlabelled=first folder, second", ["first folder", "second"]),  # always a list
        ("prompts.templates=a photo of a {class}", ["a photo of a {class}"]),
        ("prompts.templates=the artist's {class},a {class}", ["the artist's {class}", "a {class}"]),
    ],
)
def test_a_text_in_place_of_a_list_is_told_as_the_list_that_was_meant(
    override: str, expected: list[str]
) -> None:
    field = override.partition("=")[0]
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, [override])
    said, _, advice = str(caught.value).partition("; a list stands in brackets: --set ")
    assert f"{field}: " in said and "did you mean" not in said
    [told] = shlex.split(advice)  # as a shell hands it over
    assert told.startswith(f"{field}=[") and yaml.safe_load(told.partition("=")[2]) == expected
    load_recipe(QUICKSTART, [told])


@pytest.mark.parametrize("override", ["method=erb", "distill.steps=1,2", "student.backbone=[a, b]"])
def test_what_is_no_list_is_not_told_to_be_one(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, [override])
    assert "brackets" not in str(caught.value)
