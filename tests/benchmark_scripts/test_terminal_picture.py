"""benchmarks/terminal_picture.py: the SVG shows what the command printed, and loads nothing."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.terminal_picture import LOADED, main

ROOT = Path(__file__).parents[2]
COLOURED = "import os; print('\\033[31mred\\033[0m', os.environ['COLUMNS'], os.environ['FORCE_COLOR'])"


def picture(out: Path, program: str, *options: str) -> Result:
    return CliRunner().invoke(main, [*options, str(out), "--", sys.executable, "-c", program])


def texts(svg: str) -> list[str]:
    found = ElementTree.fromstring(svg).iter()
    return ["".join(text.itertext()) for text in found if text.tag.endswith("}text")]


def test_the_picture_shows_the_output_and_its_colour(tmp_path: Path) -> None:
    out = tmp_path / "picture.svg"
    result = picture(out, COLOURED, "--columns", "60")
    assert result.exit_code == 0, result.output
    svg = out.read_text()
    assert {"red", "60"} <= {word for text in texts(svg) for word in text.split()}
    assert "#cc555a" in svg.lower()  # the theme's red
    again = tmp_path / "again.svg"
    picture(again, COLOURED, "--columns", "60")
    assert again.read_text() == svg


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "pass"])
def test_a_command_that_fails_or_says_nothing_makes_no_picture(program: str, tmp_path: Path) -> None:
    out = tmp_path / "picture.svg"
    assert picture(out, program).exit_code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("svg", "loads"),
    [
        ('<use xlink:href="#marker"/>', False),
        ("<path clip-path='url(#clip)'/>", False),
        ('<a href="https://example.com">', True),
        ('<use xlink:href="other.svg#marker"/>', True),
        ("<style>@font-face { src: url('font.woff2') }</style>", True),
        ("<image/>", True),
    ],
)
def test_what_is_in_the_same_file_is_not_loaded(svg: str, loads: bool) -> None:
    assert bool(LOADED.search(svg)) == loads


def test_committed_pictures_load_nothing() -> None:
    found = (ROOT / "benchmarks/results").glob("*.svg")
    pictures = {path.name: path.read_text(encoding="utf-8") for path in found}
    assert not [name for name, svg in pictures.items() if LOADED.search(svg)]
    stats = texts(pictures["teacher_stats.svg"])
    assert any("possibly paid" in text.replace("\xa0", " ") for text in stats)
