"""Tables and figures of README.md and docs/*.md, made from committed results: none is typed by hand.

    python benchmarks/docs_figures.py            writes them between their markers
    python benchmarks/docs_figures.py --check    fails where a document and the results differ

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`, each alone on its line. A figure inside a
sentence stands between `<!--f:NAME-->` and `<!--/f-->`. The names are the keys of TABLES and FIGURES.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.docs_results import TABLES, figures
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.errors import BenchmarkError, VL2VError, did_you_mean

ROOT = Path(__file__).resolve().parents[1]
OPEN = re.compile(r"^<!-- table: (?P<name>\S+) -->$")
CLOSE = "<!-- /table -->"
FIGURE = re.compile(r"<!--f:(?P<name>[^>]*?)-->(?P<value>.*?)<!--/f-->")


def with_figures(text: str, values: Mapping[str, str]) -> tuple[str, int]:
    """The text with each marked figure made anew, and how many it holds.

    Raises BenchmarkError for an unknown name or an unfinished marker.
    """
    if text.count("<!--f:") != len(FIGURE.findall(text)):
        raise BenchmarkError("a figure does not end: <!--/f--> is missing")

    def made(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in values:
            raise BenchmarkError(f"no figure {name!r}{did_you_mean(name, values)}")
        return f"<!--f:{name}-->{values[name]}<!--/f-->"

    return FIGURE.subn(made, text)


def with_tables(document: str, results: Path) -> tuple[str, list[str]]:
    """The text with each marked table made anew, and the names of the tables it has.

    results: folder of the committed results

    Raises BenchmarkError for a marker without its other half, an unknown or repeated name, results that are
    missing or of another form.
    """
    lines, made, names = document.split("\n"), list[str](), list[str]()
    inside: str | None = None
    for number, line in enumerate(lines, 1):
        opened = OPEN.match(line)
        if opened and inside:
            raise BenchmarkError(
                f"line {number}: a table begins, but {inside!r} has not ended: {CLOSE} is missing"
            )
        if line == CLOSE and not inside:
            raise BenchmarkError(f"line {number}: {CLOSE} ends no table")
        if opened:
            inside = _known(opened["name"], names, number)
            names.append(inside)
            made += [line, "", *markdown(_made(inside, results)), ""]
        elif line == CLOSE:
            inside = None
        if not inside:
            made.append(line)
    if inside:
        raise BenchmarkError(f"table {inside!r} does not end: {CLOSE} is missing")
    return "\n".join(made), names


def markdown(grid: Grid) -> list[str]:
    """The lines of a table: names to the left, numbers to the right."""
    ruler = ["---" if column in (0, *grid.words) else "---:" for column in range(len(grid.columns))]
    head, *body = (f"| {' | '.join(cells)} |" for cells in (grid.columns, *grid.rows))
    return [head, f"|{'|'.join(ruler)}|", *body]


def first_difference(old: str, new: str) -> str:
    """Where two texts differ first, in a line that shows both."""
    pairs = zip([*old.split("\n"), ""], [*new.split("\n"), ""], strict=False)
    for number, (there, wanted) in enumerate(pairs, 1):
        if there != wanted:
            return f"line {number}: is {there!r}, the results say {wanted!r}"
    return "nowhere"


def _known(name: str, before: Sequence[str], number: int) -> str:
    if name not in TABLES:
        hint = did_you_mean(name, TABLES)
        raise BenchmarkError(f"line {number}: no table {name!r}{hint}; there are: {', '.join(TABLES)}")
    if name in before:
        raise BenchmarkError(f"line {number}: table {name!r} stands there twice")
    return name


def _made(name: str, results: Path) -> Grid:
    try:
        return TABLES[name](results)
    except (KeyError, TypeError, StopIteration) as error:
        raise BenchmarkError(
            f"table {name!r}: its results in {results} are of another form: {error!r}"
        ) from error


@click.command()
@click.argument("documents", nargs=-1, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a document and the results differ.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
def main(documents: tuple[Path, ...], check: bool, results: Path) -> None:
    """Put tables and figures of committed results into DOCUMENTS (default: README.md and docs/*.md).

    \b
    python benchmarks/docs_figures.py --check
    """
    for document in documents or (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text(encoding="utf-8")
        try:
            made, names = with_tables(text, results)
            count = 0
            if "<!--f:" in text:
                made, count = with_figures(made, figures(results))
        except VL2VError as error:
            raise click.ClickException(f"{document}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise click.ClickException(f"{document}: results of another form: {error!r}") from error
        if made != text and check:
            raise click.ClickException(
                f"{document}: {first_difference(text, made)}; run: python benchmarks/docs_figures.py"
            )
        if made != text:
            document.write_text(made, encoding="utf-8")
        tables = ", ".join(names) or "no table"
        done = "up to date" if made == text else "written"
        click.echo(f"{document.name}: {tables}; figures: {count}: {done}")


if __name__ == "__main__":
    main()
