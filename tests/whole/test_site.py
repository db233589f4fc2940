"""The documentation's site: built without a warning, complete, and readable in a browser at two widths."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from tests.helpers.browser import DESKTOP, PHONE, cannot, chromium, opened, served
from vl2v_deploy import errors
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client.manifest import Manifest
from vl2v_deploy.models.record import RunRecord
from vl2v_deploy.recipe import METHODS
from vl2v_deploy.recipe.whole import Recipe

ROOT = Path(__file__).parents[2]
MKDOCS = ROOT / ".venv-docs/bin/mkdocs"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a broken link or anchor is a warning, and a warning an error.

    Not with --quiet: it hides warnings from --strict, too.
    """
    if not MKDOCS.exists():
        cannot(".venv-docs is not there: `make docs` or `make test` makes it")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [str(MKDOCS), "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    """What a reader sees of a page, without tags and line breaks that carry no meaning."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference/commands.html")
    waiting: list[click.Command] = [cli]
    options = set()
    while waiting:
        command = waiting.pop()
        waiting += command.commands.values() if isinstance(command, click.Group) else []
        if not isinstance(command, click.Group):
            shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
            options |= {name for option in shown for name in option.opts}
    assert len(options) > 50
    assert {option for option in options if option not in text} == set()


def test_every_field_and_method_of_a_recipe_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference/recipe.html")

    def names(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return {name for part in schema for name in names(part)}
        if not isinstance(schema, dict):
            return set()
        own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
        return own | {name for part in schema.values() for name in names(part)}

    fields = names(Recipe.model_json_schema())
    assert {"learning_rate", "kind", "unlabelled", *METHODS} - {""} and len(fields) > 60
    words = set(re.findall(r"[\w]+", text))
    assert (fields | set(METHODS)) - words == set()


@pytest.mark.parametrize("record", [Manifest, RunRecord])
def test_every_field_of_the_records_is_in_the_reference(site: Path, record: type) -> None:
    words = set(re.findall(r"\w+", text_of(site / "reference/records.html")))
    fields = record.model_fields if issubclass(record, BaseModel) else record.__dataclass_fields__  # type: ignore[attr-defined]
    assert set(fields) - words == set()


def test_every_error_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference/errors.html")
    known = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert len(known) > 20 and {name for name in known if name not in text} == set()


def test_code_and_names_in_angle_brackets_are_shown_as_they_are(site: Path) -> None:
    """No backslash or entity that Markdown needs elsewhere is left in code; no <name> is taken for a tag."""
    escape = re.compile(r"<code[^>]*>[^<]*(?:\\[|_]|&amp;lt;)[^<]*</code>")
    pages = [page for page in site.rglob("*.html") if "repository" not in page.relative_to(site).parts]
    left = {page.name: escape.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert len(pages) > 25 and {name: found for name, found in left.items() if found} == {}
    assert "vl2v-deploy | source" in text_of(site / "cli.html")
    assert "reports/<name of the bundle>" in text_of(site / "reference/python.html")
    assert "runs/<recipe name>" in text_of(site / "reference/commands.html")


def test_equations_are_mathml(site: Path) -> None:
    page = (site / "method.html").read_text(encoding="utf-8")
    equations = re.findall(r"<math.*?</math>", page, flags=re.DOTALL)
    assert len(equations) > 20 and "$`" not in page
    assert [e for e in equations if re.search(r"\\|&#x0005C;", e)] == []  # no command was left as it was


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pages_fit_the_window_and_ask_nothing_of_others(
    site: Path, browser: Any, size: tuple[int, int]
) -> None:
    """opened() fails on whatever is asked of another origin, and on errors in the console."""
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert len(pages) > 30
    wide = {}
    with served(site) as address, opened(browser, f"{address}/index.html", size) as page:
        for name in pages:
            page.goto(f"{address}/{name}")
            page.wait_for_selector("h1", state="attached")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > size[0]:
                wide[name] = width
    assert wide == {}
