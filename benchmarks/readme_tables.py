"""The README's benchmark tables, from committed results: no figure in it is typed by hand.

    python benchmarks/readme_tables.py            writes them between their markers
    python benchmarks/readme_tables.py --check    fails where README and results differ

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`, each alone on its line. Names, and what
they are made from:

    demo             quickstart_cpu-2core.json: one row an engine
    demo-domains     the same: accuracy by domain of the engine the report speaks of, and of the teacher
    precisions       precisions_cpu-2core.json, with the accuracies of quickstart_manifest.json
    inference        inference_cpu-2core.json: JPEG to label against timm's model in other runtimes
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.benchmarking.report.tables import Grid, domain_grid, summary_grid
from vl2v_deploy.client.manifest import manifest_from_text
from vl2v_deploy.errors import BenchmarkError, VL2VError, did_you_mean

ROOT = Path(__file__).resolve().parents[1]
DEMO, PRECISIONS = "quickstart_cpu-2core.json", "precisions_cpu-2core.json"
MANIFEST, INFERENCE = "quickstart_manifest.json", "inference_cpu-2core.json"
OPEN = re.compile(r"^<!-- table: (?P<name>\S+) -->$")
CLOSE = "<!-- /table -->"


def demo_table(results: Path) -> Grid:
    """One row an engine of the demo's report."""
    return summary_grid(read_report(results / DEMO))


def demo_domains_table(results: Path) -> Grid:
    """Accuracy by domain, of the engine that the report's headline speaks of and of the teacher."""
    report = read_report(results / DEMO)
    spoken_of = [name for name in report.results.engines if name == report.results.primary]
    teachers = [engine.name for engine in report.measurements.engines if engine.kind == "teacher"]
    return domain_grid(report, spoken_of + [name for name in teachers if name in report.results.engines])


def precisions_table(results: Path) -> Grid:
    """Size, speed as a multiple of fp32's, and accuracy of each ONNX file of the demo's bundle."""
    speeds = _read(results / PRECISIONS)
    manifest = manifest_from_text((results / MANIFEST).read_text(encoding="utf-8"), MANIFEST)
    batches = speeds["batches"]
    grid = Grid(("file", "MB", *(f"batch {batch}" for batch in batches), "ID %", "OOD %"))
    for precision, made in manifest.precisions.items():
        if speeds["bundle"]["files"][precision]["sha256"] != manifest.files[made.file].sha256:
            raise BenchmarkError(f"{PRECISIONS}: its {made.file} is not the one of {MANIFEST}: measure again")
        fast = [f"{batches[batch][precision]['times_as_fast_as_fp32']:.2f} x" for batch in batches]
        accuracy = made.accuracy
        shares = (accuracy.id, accuracy.ood) if accuracy else ()
        percents = [f"{100 * share:.1f}" for share in shares]
        grid.rows.append((f"`{made.file}`", f"{made.bytes / 1e6:.1f}", *fast, *percents))
    return grid


def inference_table(results: Path) -> Grid:
    """p50 from JPEG to label, its ratio to the best fp32 peer; a column a model and size of photograph."""
    report = _read(results / INFERENCE)
    columns = {
        f"{name}, {size}": result
        for name, model in report["models"].items()
        for size, result in model["sizes"].items()
    }
    grid = Grid(("JPEG to label, p50 (to the best fp32 peer)", *columns))
    engines = next(iter(columns.values()))["engines"]
    for engine in engines:
        cells = []
        for result in columns.values():
            p50_ms = result["engines"][engine]["p50_ms"]
            ratio = result["ratio_to_best_fp32_peer"].get(engine)
            cells.append("failed" if p50_ms is None or ratio is None else f"{p50_ms:.2f} ms ({ratio:.2f})")
        grid.rows.append((engine, *cells))
    return grid


TABLES: Mapping[str, Callable[[Path], Grid]] = {
    "demo": demo_table,
    "demo-domains": demo_domains_table,
    "precisions": precisions_table,
    "inference": inference_table,
}


def with_tables(readme: str, results: Path) -> tuple[str, list[str]]:
    """The README's text with each marked table made anew, and the names of the tables it has.

    results: folder of the committed results

    Raises BenchmarkError for a marker without its other half, an unknown or repeated name, results that are
    missing or of another form.
    """
    lines, made, names = readme.split("\n"), list[str](), list[str]()
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


def _read(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BenchmarkError(f"{path}: is not JSON: {error}") from error
    return read


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where README and results differ.")
@click.option("--readme", type=click.Path(path_type=Path), default=ROOT / "README.md")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
def main(check: bool, readme: Path, results: Path) -> None:
    """Put the tables of committed results into the README."""
    text = readme.read_text(encoding="utf-8")
    try:
        made, names = with_tables(text, results)
    except VL2VError as error:
        raise click.ClickException(f"{readme}: {error}") from error
    if missing := [name for name in TABLES if name not in names]:
        click.echo(f"{readme.name} has no marker for: {', '.join(missing)}")
    if made != text and check:
        raise click.ClickException(
            f"{readme}: {first_difference(text, made)}; run: python benchmarks/readme_tables.py"
        )
    if made != text:
        readme.write_text(made, encoding="utf-8")
    done = "up to date" if made == text else "written"
    click.echo(f"{readme.name}: {', '.join(names) or 'no table'}: {done}")


if __name__ == "__main__":
    main()
