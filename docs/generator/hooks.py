"""Hooks of MkDocs: pages made from code, files outside docs/ that pages link to, equations as MathML."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from commands_page import commands_page
from errors_page import errors_page
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from python_page import python_page
from recipe_page import recipe_page
from records_page import records_page

ROOT = Path(__file__).parents[2]
PAGES = {
    "reference/commands.md": commands_page,
    "reference/recipe.md": recipe_page,
    "reference/python.md": python_page,
    "reference/records.md": records_page,
    "reference/errors.md": errors_page,
}
HOME = "index.md"
OUTSIDE = "repository"  # where the site keeps files of the repository that are not in docs/
LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)((?:#[^)]*)?\))")
COPIED = {".webp", ".png", ".svg", ".json", ".jsonl", ".csv", ".ipynb"}
LANGUAGES = {".py": "python", ".cpp": "cpp", ".mjs": "javascript", ".yaml": "yaml", ".sbatch": "bash"}
TABLE_ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
SHORT_CODE = re.compile(r"<code>(?=[^\s<]{1,30}</code>)")  # else cut in two at a hyphen
LONG_CELL = re.compile(r"<td>(?=(?:(?!</td>).){70})", re.DOTALL)
FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of the reference, the README as the home page, and whatever a page links to."""
    for uri, make in PAGES.items():
        files.append(File.generated(config, uri, content=make()))
    files.append(File.generated(config, HOME, content=(ROOT / "README.md").read_text(encoding="utf-8")))
    waiting = [file for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for path in _linked(page.content_string, page.src_uri):
            uri = uri_from_path(path)
            if files.get_file_from_path(uri) is None:
                file = _file_of(path, uri, config)
                files.append(file)
                if uri.endswith(".md"):
                    waiting.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page with its links inside the site, and equations that a browser draws by itself."""
    here = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        path = path_from_link(found[2], here)
        uri = uri_from_path(path)
        return f"{found[1]}{relpath(uri, str(PurePosixPath(here).parent))}{found[3]}"

    if page.parent is None:  # the only page of its tab: a list of one page would take its room
        page.meta["hide"] = ["navigation"]
    if here not in PAGES:
        markdown = _outside_fences(markdown, lambda text: LINK.sub(link, text))
    return with_mathml(TABLE_ROW.sub(lambda row: CODE.sub(_without_escapes, row[0]), markdown))


def on_page_content(html: str, **_: Any) -> str:
    """A page whose short names in code, and long cells of tables, are marked for style.css."""
    return LONG_CELL.sub('<td class="long">', SHORT_CODE.sub('<code class="short">', html))


def _without_escapes(code: re.Match[str]) -> str:
    r"""GitHub needs \| for a pipe in the code of a table; here the backslash would be shown."""
    return code[0].replace("\\|", "|")


def on_post_build(**_: Any) -> None:
    """Leaves no module of this folder behind for another build in the same process (mkdocs serve)."""
    for name in ("commands_page", "errors_page", "python_page", "recipe_page", "records_page"):
        sys.modules.pop(name, None)


def path_from_link(link: str, uri: str) -> str:
    """A path in the repository; link is relative to the file from which the page uri is made."""
    if uri == HOME:
        source = "README.md"
    elif uri.startswith(f"{OUTSIDE}/"):
        source = uri.removeprefix(f"{OUTSIDE}/")
    else:
        source = f"docs/{uri}"
    return normpath(f"{PurePosixPath(source).parent}/{link}")


def uri_from_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path == "README.md":
        return HOME
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"{OUTSIDE}/{path}/index.md"
    if PurePosixPath(path).suffix in COPIED | {".md"}:
        return f"{OUTSIDE}/{path}"
    return f"{OUTSIDE}/{path}.md"


def with_mathml(markdown: str) -> str:
    """Blocks of ```math and $`inline`$ equations in MathML."""
    markdown = re.sub(
        r"^```math\n(.*?)^```$",
        lambda found: f'<div class="equation">{convert(found[1].strip(), display="block")}</div>',
        markdown,
        flags=re.DOTALL | re.MULTILINE,
    )
    return _outside_fences(
        markdown, lambda text: re.sub(r"\$`([^`]+)`\$", lambda found: convert(found[1]), text)
    )


def _outside_fences(markdown: str, change: Any) -> str:
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _linked(markdown: str, uri: str) -> list[str]:
    """Paths outside docs/ that exist; what does not exist, MkDocs itself reports."""
    if uri in PAGES:
        return []
    found: list[str] = []
    _outside_fences(markdown, lambda text: found.extend(link[2] for link in LINK.finditer(text)) or text)
    paths = {path_from_link(link, uri) for link in found}
    return sorted(path for path in paths if not path.startswith(("docs/", "..")) and (ROOT / path).exists())


def _file_of(path: str, uri: str, config: Any) -> File:
    place = ROOT / path
    if place.is_dir():
        names = sorted(entry.name for entry in place.iterdir() if entry.is_file())
        content = f"# `{path}`\n\n" + "\n".join(f"- [{name}]({name})" for name in names) + "\n"
        return File.generated(config, uri, content=content)
    if uri == f"{OUTSIDE}/{path}":
        return File.generated(config, uri, abs_src_path=str(place))
    text, language = place.read_text(encoding="utf-8"), LANGUAGES.get(place.suffix, "text")
    return File.generated(config, uri, content=f"# `{path}`\n\n````{language}\n{text}\n````\n")
