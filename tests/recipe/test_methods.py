"""The rows of the table of methods agree with themselves, with the losses and with the recipe's fields."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import vl2v_deploy
from vl2v_deploy.distillation.study.results import flattened
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.method.losses import LOSSES
from vl2v_deploy.recipe import DEFAULT_METHOD, METHODS, load_recipe, recipe_json_schema

MINIMAL = """
data: {root: pictures, target: photo}
teacher: {model: "local-dir:teacher"}
student: {backbone: resnet18}
"""
PACKAGE = Path(vl2v_deploy.__file__).parent
# The table itself, and the losses, which have names of their own.
MAY_NAME_METHODS = {PACKAGE / "recipe" / "methods.py", PACKAGE / "method" / "losses.py"}


@pytest.mark.parametrize("name", METHODS)
def test_a_row_agrees_with_itself(name: str) -> None:
    method = METHODS[name]
    trained = {part for parts in method.stages.values() for part in parts}
    assert trained <= set(method.student)
    assert bool(method.stages) == (method.predictor == "student") == (method.loss is not None)
    assert method.loss is None or method.loss in LOSSES
    assert method.stages or method.teacher_images == "never"
    assert method.image_weight is None or method.teacher_images == "weighted"
    assert (not method.student) == method.predictor.endswith("teacher")


def test_labels_are_told_apart() -> None:
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    assert DEFAULT_METHOD in METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_fields_that_a_method_does_not_use_exist(write_recipe: Callable[[str], Path], name: str) -> None:
    fields = flattened(load_recipe(write_recipe(MINIMAL)).model_dump(mode="json"))
    for unused in METHODS[name].unused:
        assert any(field.startswith(unused) if unused.endswith(".") else field == unused for field in fields)
    lambdas = {field for field in fields if field.endswith("image_weight")}
    ignored = {field for field in lambdas if field.startswith(METHODS[name].unused)}
    assert (ignored < lambdas) == METHODS[name].has_lambda


def test_an_unknown_method_is_refused_with_the_known_ones(write_recipe: Callable[[str], Path]) -> None:
    for override in ("method=adap", "method=[erm, adap]", "per_method.adap.seed=1"):
        with pytest.raises(RecipeError, match="did you mean 'adip'") as caught:
            load_recipe(write_recipe(MINIMAL), [override])
        assert all(name in str(caught.value) for name in METHODS)


def test_the_schema_offers_every_method() -> None:
    one, several = recipe_json_schema()["properties"]["method"]["anyOf"]
    assert one["enum"] == several["items"]["enum"] == list(METHODS)


def test_no_other_module_names_a_method() -> None:
    named = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in PACKAGE.rglob("*.py")
        if path not in MAY_NAME_METHODS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in METHODS
    }
    assert named == set()
