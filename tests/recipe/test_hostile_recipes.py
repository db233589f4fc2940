"""Recipes and overrides made to break the loader: each is a RecipeError of short lines, in little time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.recipe import load_recipe, recipe_sha256
from vl2v_deploy.recipe.yaml_text import MOST_BYTES, tree_from_yaml

WHOLE = """\
data: {root: pictures, target: sketch}
teacher: {model: ViT-B-32, pretrained: openai}
student: {backbone: resnet18}
"""
CPU_S = 5.0


def with_field(field: str, value: str) -> str:
    """A whole recipe, one of its fields another value."""
    section, _, key = field.rpartition(".")
    if not section:
        return f"{WHOLE}{key}: {value}\n"
    return WHOLE.replace(f"{section}: {{", f"{section}: {{{key}: {value}, ", 1)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + f"\n{WHOLE.replace('target', f'class_names: *a{levels - 1}, target')}"


TEXTS = {
    "a date as a name": with_field("label", "2024-01-31"),
    "a date that is none": with_field("label", "2024-13-45"),
    "a number that is none": with_field("seed", "!!int abc"),
    "a truth that is none": with_field("seed", "!!bool abc"),
    "a time that is none": with_field("seed", "!!timestamp abc"),
    "an empty number": with_field("seed", "!!int ''"),
    "5,000 digits": with_field("seed", "9" * 5000),
    "5,000 hexadecimal digits": with_field("seed", "0x" + "f" * 5000),
    "a number in base 60": with_field("seed", ":".join(["1", *["59"] * 400])),
    "a NUL": with_field("label", "a\0b"),
    "a NUL in quotes": with_field("data.class_names", '"a\\0b"'),
    "half a character": with_field("label", '"\\ud800"'),
    "nobody's home": with_field("data.class_names", "~nosuchuser/x"),
    "an alias bomb": bomb(12),
    "a small alias bomb": bomb(3),
    "an alias of itself": with_field("data.class_names", "&a {x: *a}"),
    "deep brackets": with_field("data.class_names", "[" * 100_000),
    "deep mappings": with_field("data.class_names", "{a: " * 900 + "1" + "}" * 900),
    "a key twice": WHOLE + "seed: 1\nseed: 2\n",
    "a section twice": WHOLE + "teacher: {model: x}\n",
    "code": with_field("label", "!!python/object/apply:os.system ['true']"),
    "200,000 unknown fields": "".join(f"k{number}: 1\n" for number in range(190_000)),
    "too many values": with_field("data.class_names", "[" + "x, " * 300_000 + "]"),
    "a long unknown field": f"? {'a' * 1_000_000}\n: 1\n",
    "a long value": with_field("method", "x" * 1_000_000),
    "a long list": with_field("data.class_names", "{a: [" + "x, " * 10_000 + "]}"),
    "a key of lines": with_field("data.class_names", '{"a\\nb": 3}'),
    "a list": "- a",
    "nothing": "",
    "two documents": WHOLE + "---\n" + WHOLE,
    "a key that is no text": "[a, b]: 1",
    "a merge of nothing": "<<: 3",
    "a surrogate pair": WHOLE + 'label: "\\ud83d\\ude00"\n',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_hostile_recipes_are_refused_in_short_lines(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert time.process_time() - started < CPU_S
    lines = str(caught.value).split("\n")
    assert len(lines) <= 25 and all(line.startswith(str(path)) and len(line) < 1200 for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        WHOLE.encode("utf-16"),
        WHOLE.encode() + b"label: caf\xe9",
        b"#" * (MOST_BYTES + 1),
        bytes(9),
    ],
    ids=["no UTF-8", "UTF-16", "Latin-1", "too large", "zeros"],
)
def test_hostile_bytes_are_no_recipe(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=str(path)) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["nowhere.yaml", "a\0b.yaml", "n" * 5000, "caf\udce9.yaml", ""])
def test_hostile_names_of_recipe_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read") as caught:
        load_recipe(tmp_path / name)
    str(caught.value).encode("utf-8")


OVERRIDES = [
    *("seed", "=", "seed=[", "seed=0x" + "f" * 500, "seed=" + "9" * 5000, "seed=2024-01-01", "seed=!!int x"),
    *(
        "data=3",
        "data.root.x=1",
        "a.b=1",
        ".".join(["a"] * 5000) + "=1",
        "seed=caf\udce9",
        "seed=\0",
        "a\nb=1",
    ),
    *("data.class_names={a: 1, a: 2}", "data.class_names=" + "[" * 5000, "data.root=~nosuchuser/x"),
    'data.root="a\\0b"',
]


@pytest.mark.parametrize("override", OVERRIDES, ids=range(len(OVERRIDES)))
def test_hostile_overrides_are_refused_in_short_lines(override: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [override])
    for line in str(caught.value).split("\n"):
        assert line.isprintable() and len(line) < 1000


def test_what_is_within_the_limits_loads(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "\ufeff" + WHOLE.replace("root: pictures", "root: &r pictures, class_names: *r"), encoding="utf-8"
    )
    recipe = load_recipe(path)
    assert recipe.data.class_names == recipe.data.root
    names = ", ".join(f"c{number}: class {number}" for number in range(21_000))  # of ImageNet-21k
    path.write_text(with_field("data.class_names", f"{{{names}}}"))
    assert len(load_recipe(path).data.class_names) == 21_000
    assert len(recipe_sha256(load_recipe(path))) == 64


def test_what_yaml_reads_is_what_its_safe_loader_reads() -> None:
    import yaml

    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert tree_from_yaml(text) == yaml.safe_load(text)
