"""`init` on folders of any names: its recipe loads and means them, or one line says what to rename."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.starter import starter_recipe
from vl2v_deploy.errors import DataError
from vl2v_deploy.recipe import load_recipe

NAMES = (
    *(
        "# no comment",
        "a: b",
        '"quoted"',
        "'",
        "- item",
        "{x}",
        "[x]",
        "&a",
        "*a",
        "!x",
        "%x",
        "@x",
        "`x`",
        "yes",
    ),
    *(
        "null",
        "~",
        "1",
        "1e3",
        "2024-01-31",
        "<<",
        "=",
        "? x",
        " x ",
        "日本",
        "\U0001f3a8",
        "\ufeffx",
        "{class}",
    ),
    *("\\", "a\\n", "|", ">", "'''", "---", "a #b", "0x10", "!!int x", "${x}"),
)
# Of domains and classes these are refused: they go into tables, logs and terminals.
CONTROLS = (
    "two\nlines",
    "a\tb",
    "a\x85b",
    "a\u2028b",
    "\x1b[31m",
    "\x7f",
    "a\u202eb",
    os.fsdecode(b"caf\xe9"),
)


def make_folders(root: Path, domains: tuple[str, ...], classes: tuple[str, ...]) -> None:
    shade = 0
    for domain in domains:
        for name in classes:
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(3):
                shade += 1
                Image.new("RGB", (8, 8), (shade % 256, shade // 256, 9)).save(folder / f"{number}.png")


@pytest.mark.parametrize("name", NAMES)
def test_init_writes_a_recipe_that_loads_for_hostile_names(name: str, tmp_path: Path) -> None:
    root = tmp_path / f"data {name}"
    make_folders(root, (name, f"{name}2"), (name, f"b{name}"))
    out = tmp_path / "recipe.yaml"
    for classes in ((), (f"b{name}", name)):
        text, _ = starter_recipe(root, name, out, "open_clip", classes=classes)
        out.write_text(text, encoding="utf-8")
        recipe = load_recipe(out)
        assert (Path(recipe.data.root), recipe.data.target) == (root, name)
        assert recipe.data.classes == (classes or None)
        assert yaml.safe_load(text)["data"]["target"] == name
    text, _ = starter_recipe(root, None, out, "open_clip")
    out.write_text(text, encoding="utf-8")
    assert load_recipe(out).data.target == f"{name}2"


@pytest.mark.parametrize("name", CONTROLS)
def test_hostile_names_that_would_break_a_line_are_to_be_renamed(name: str, tmp_path: Path) -> None:
    make_folders(tmp_path / "domains", (name, "other"), ("a", "b"))
    make_folders(tmp_path / "classes", ("a", "b"), (name, "other"))
    for root in ("domains", "classes"):
        with pytest.raises(DataError, match="the name of this folder holds control characters") as caught:
            starter_recipe(tmp_path / root, None, None, "open_clip")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", CONTROLS)
def test_init_in_a_folder_of_a_hostile_name(name: str, tmp_path: Path) -> None:
    root, out = tmp_path / name, tmp_path / "recipe.yaml"
    make_folders(root, ("a", "b"), ("c", "d"))
    try:
        text, _ = starter_recipe(root, "b", out, "open_clip")
    except DataError as error:
        assert not name.isascii() and str(error).isprintable() and "rename it" in str(error)
        return
    out.write_text(text, encoding="utf-8")
    assert Path(load_recipe(out).data.root) == root


def test_hostile_names_in_errors_move_no_cursor(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_folders(root, ("a", "other"), ("x", "y"))
    result = CliRunner().invoke(cli, ["init", str(root), "--target", "no\nsuch\x1b[2J"])
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: data.target: ") and line.isprintable()
