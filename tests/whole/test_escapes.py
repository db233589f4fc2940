"""One escape for each format, checked by readers of that format: hostile names stay text."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from vl2v_deploy.escapes import (
    csv_cell,
    html_text,
    latex_cell,
    latex_comment,
    markdown_cell,
    markdown_code,
    markdown_text,
)
from vl2v_deploy.names import shortened, shown

NAMES = (
    *(
        "cat",
        "vit_small",
        "_under_",
        "a|b",
        "a\\",
        "\\|",
        "`x`",
        "``",
        "*b*",
        "**",
        "~~s~~",
        "a & b",
        "&lt;",
        "&#60;",
    ),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!--",
        "]]>",
        "</td>",
        "<http://x.example>",
    ),
    *(
        "[x](http://x.example)",
        "![x](y)",
        "[x][y]",
        "[x]: http://x.example",
        "[a](<b>)",
        "\\[x](y)",
        "# 1",
        "> q",
    ),
    *(
        "- a",
        "+ a",
        "1. a",
        "1) a",
        "---",
        "===",
        "=1+1",
        "+1",
        "-1.5e3",
        "@SUM(A1)",
        "-",
        "a\n# b",
        "a\r\n|---|",
    ),
    *(
        "\t=1",
        "\\input{x}",
        "50 %",
        "$x$",
        "{[2cm]}",
        "[2cm]",
        "*",
        "a^b~c#d_e&f",
        "a\u2028b",
        "caf\udce9",
        "\ud800",
    ),
    *("\x1b[31mred", "\0", "\x85", "\u202etxt.exe", "日本", "🎨", "", " ", "&copy;", "a\\\\b", "\\"),
)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def rendered_text(html: str) -> tuple[str, set[str]]:
    """The text of some HTML, and its tags."""
    texts: list[str] = []
    tags: set[str] = set()

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            texts.append(data)

        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.add(tag)

        def handle_comment(self, data: str) -> None:
            tags.add("comment")

    reader = Reader()
    reader.feed(html)
    reader.close()
    return "".join(texts), tags


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_one_cell_of_a_markdown_table(name: str) -> None:
    table = f"| a | b |\n|---|---|\n| **{markdown_cell(name) or 'x'}** | {markdown_cell(name)} |\n"
    html = MARKDOWN.render(table)
    cells = re.findall("<td>(.*?)</td>", html, flags=re.DOTALL)
    assert len(cells) == 2
    text, tags = rendered_text(cells[1])
    assert text.strip() == shown(name).strip() and not tags
    assert rendered_text(html)[1] == {"table", "thead", "tbody", "tr", "th", "td", "strong"}


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_begins_no_block_of_markdown(name: str) -> None:
    for before, tags in (("", {"p"}), ("- ", {"ul", "li"}), ("text\n\n", {"p"})):
        text, found = rendered_text(MARKDOWN.render(f"{before}{markdown_text(name)}\n"))
        assert text.removeprefix("text").strip() == shown(name).strip()
        assert found <= tags


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_stays_within_its_code_of_markdown(name: str) -> None:
    text, tags = rendered_text(MARKDOWN.render(f"- name: {markdown_code(name)}, {markdown_code('b')}\n"))
    plain = shown(name).replace("|", r"\|")
    assert text.strip().replace("\n", "") == f"name: {plain or ' '}, b" and tags == {"ul", "li", "code"}


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_one_cell_of_csv_and_no_formula(name: str) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([csv_cell(name), "b"])
    content = file.getvalue()
    content.encode("utf-8")
    [[cell, last]] = csv.reader(io.StringIO(content))
    assert last == "b" and cell.removeprefix("'") == shown(name)
    assert cell[:1] not in "=+-@" or re.fullmatch(r"[-+]?[\d.]+(e\d+)?", cell) or not cell
    assert not cell.lstrip().startswith(("=", "@"))


def test_numbers_stay_numbers_in_csv() -> None:
    for number in ("-0.5", "+3", "12", "1e-7", "-.5", ""):
        assert csv_cell(number) == number


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_one_cell_of_latex(name: str) -> None:
    cell = latex_cell(name)
    assert not set("\n\r\x85\u2028") & set(cell + latex_comment(name))
    assert latex_comment(name).startswith("% ")
    # What is left without the escapes has no character that means something to LaTeX.
    without = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]|^\{\}", "", cell)
    assert not set("\\&%$#_{}~^") & set(without)
    assert not cell.lstrip().startswith(("[", "*"))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_text_in_html(name: str) -> None:
    text, tags = rendered_text(f'<p title="{html_text(name)}">{html_text(name)}</p>')
    assert (text, tags) == (shown(name), {"p"})


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_shown_on_one_line_that_can_be_written(name: str) -> None:
    text = shown(name)
    text.encode("utf-8")
    assert text.splitlines() in ([text], []) and (text.isprintable() or "\u202e" not in text)


def test_hostile_values_are_shortened() -> None:
    for value in ("x" * 10**6, 10**5000, [[]] * 10**5, {"a\nb": "\ud800"}):
        text = shortened(value)
        assert len(text) <= 80 and "\n" not in text
        text.encode("utf-8")
