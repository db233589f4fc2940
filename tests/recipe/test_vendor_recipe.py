"""A recipe with a teacher behind an HTTP API: what its fields allow, and what is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.recipe import HttpRecipe, recipe_from_tree

TEACHER = {
    "kind": "http",
    "api": "openai",
    "url": "http://127.0.0.1:8000/v1",
    "model": "clip",
    "dimensions": 8,
    "usd_per_1k_images": 0.1,
    "usd_per_1k_texts": 0.02,
    "terms": {"url": "https://example.com/terms", "read_on": "2026-11-28", "permits": "internal"},
}


def load(teacher: dict[str, Any], **more: Any) -> HttpRecipe:
    tree = {
        "data": {"root": "data", "target": "art"},
        "teacher": TEACHER | teacher,
        "student": {"backbone": "resnet18"},
    }
    recipe = recipe_from_tree(tree | more, "recipe.yaml").teacher
    assert isinstance(recipe, HttpRecipe)
    return recipe


def test_http_defaults() -> None:
    recipe = load({})
    assert (recipe.batch_size, recipe.key_env, recipe.logit_scale, recipe.online) == (1, None, "fit", False)
    assert (recipe.image.size_px, recipe.image.format) == (224, "png")
    assert recipe.terms.permits == "internal"


@pytest.mark.parametrize(
    ("api", "most"),
    [("vllm", 1), ("azure", 1), ("titan", 1), ("openai", 32), ("cohere", 96), ("voyage", 1000)],
)
def test_http_batch_size_is_what_the_api_takes(api: str, most: int) -> None:
    assert load({"api": api, "key_env": "KEY", "batch_size": most}).batch_size == most
    with pytest.raises(RecipeError, match=rf"teacher.*batch_size.*{api} takes at most {most} "):
        load({"api": api, "key_env": "KEY", "batch_size": most + 1})


@pytest.mark.parametrize("api", ["jina", "cohere", "voyage", "azure", "titan"])
def test_http_api_that_wants_a_key(api: str) -> None:
    with pytest.raises(RecipeError, match=f"key_env: api: {api} wants a key"):
        load({"api": api})


@pytest.mark.parametrize(
    ("teacher", "match"),
    [
        ({"terms": {"url": "https://example.com"}}, "terms.read_on: is required"),
        ({"url": "https://user:secret@example.com"}, "url"),
        ({"url": "http://127.0.0.1:port"}, "url: expected http"),
        ({"url": "http://[::1"}, "url: expected http"),
        ({"url": "http://:8080"}, "url: expected http"),
        ({"key_env": "sk-1234"}, "key_env"),
        ({"image": {"format": "png", "quality": 90}}, "quality"),
        ({"image": {"format": "pixels"}}, "goes with api: kserve"),
        ({"text_model": "texts"}, "text_model: goes with api: kserve"),
        ({"logit_scale": "guess"}, "logit_scale"),
    ],
)
def test_http_fields_that_are_refused(teacher: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        load(teacher)


@pytest.mark.parametrize(
    ("field", "secret"),
    [
        *(("key_env", key) for key in ("sk-4f9c1e", "jina_4f9c1e", "4F9C1E")),
        *(
            ("url", f"https://{rest}")
            for rest in ("me:4f9c1e@a.test", "a.test/v1?key=4f9c1e", "a.test#4f9c1e")
        ),
    ],
)
def test_http_key_in_a_recipe_is_refused_and_not_repeated(field: str, secret: str) -> None:
    with pytest.raises(RecipeError, match=f"teacher.{field}: expected") as refused:
        load({field: secret})
    assert "4f9c1e" not in str(refused.value).lower()


def test_http_online_views_are_bought_only_on_purpose() -> None:
    stage, align = {"steps": 200, "batch_per_domain": 30}, {"steps": 100, "batch_per_domain": 40}
    with pytest.raises(RecipeError, match=r"10,000 queries \(\$1\.00\) for each source domain"):
        load({}, teacher_views="online", distill=stage, align=align)
    with pytest.raises(RecipeError, match=r"6,000 queries \(\$0\.60\) for each source domain"):
        load({}, teacher_views="online", method="kd", distill=stage, align=align)
    assert load({"online": True}, teacher_views="online", distill=stage).online
