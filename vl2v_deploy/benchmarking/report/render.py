"""A report for people: the terminal, and report.md."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vl2v_deploy.benchmarking.judge.compare import ReportDiff
from vl2v_deploy.benchmarking.judge.cost import FORMULAS
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.benchmarking.report.in_short import in_short
from vl2v_deploy.benchmarking.report.notes import facts, notes
from vl2v_deploy.benchmarking.report.tables import NOT_MLPERF, domain_grid, grids, summary_grid
from vl2v_deploy.benchmarking.schema import Report, Verdict
from vl2v_deploy.escapes import markdown_cell, markdown_code, markdown_text
from vl2v_deploy.names import shown

COLOURS = {"worse": "red", "better": "green", "unclear": "yellow", "yes": "green", "no": "red"}
SCOPES = (
    "`session`: the network only, input and output where it computes. `tensor_to_logits`: preprocessed "
    "tensor in host memory to logits in host memory. `bytes_to_label`: encoded image bytes to label, as an "
    "application calls it."
)


def print_report(report: Report, console: Console) -> None:
    """Headline, tables, verdicts and warnings, to the terminal; 80 columns suffice."""
    console.print(shown(report.results.headline), style="bold", markup=False, highlight=False)
    if report.results.cascade:
        console.print(shown(report.results.cascade.headline), style="bold", markup=False, highlight=False)
    console.print()
    for grid in (summary_grid(report), domain_grid(report, _headliners(report))):
        console.print(_rich_table(grid))
        console.print()
    for verdict in report.results.verdicts:
        if verdict.about == "unavailable":
            console.print(shown(f"Not available: {verdict.text}"), style="dim", markup=False, highlight=False)
            continue
        answer = (_answer(verdict), COLOURS[verdict.answer])
        console.print(Text.assemble(f"{verdict.question} ", answer, shown(f": {verdict.text}")))
    for warning in report.results.warnings:
        console.print(Text.assemble(("!", "yellow"), shown(f" {warning}")))
    console.print()
    for note in notes(report):
        console.print(shown(note), style="dim", markup=False, highlight=False)
    if lines := in_short(report):  # last, as the beginning has left the screen
        console.print()
        for line in lines:
            console.print(shown(line), style="bold", markup=False, highlight=False)


def print_comparison(comparison: ReportDiff, console: Console) -> None:
    """What changed, row by row, then versions and the verdict, to the terminal; 80 columns suffice."""
    for name in dict.fromkeys(row.engine for row in comparison.rows):
        rows = [
            (row.what, row.before, row.after, row.change, row.verdict)
            for row in comparison.rows
            if row.engine == name
        ]
        grid = Grid((name, "before", "after", "change", "verdict"), list(rows), words=(4,))
        console.print(_rich_table(grid))
        console.print()
    for name, (before, after) in comparison.versions.items():
        console.print(f"version of {name}: {before} -> {after}", markup=False, highlight=False)
    for row in comparison.rows:
        if row.verdict in COLOURS:
            text = f"{row.verdict}: {row.engine}, {row.what}: {row.before} -> {row.after} ({row.threshold})"
            console.print(shown(text), style=COLOURS[row.verdict], markup=False, highlight=False)
    found = "A regression." if comparison.regression else "No regression."
    console.print(f"{found} Noise band: {100 * comparison.noise:g} %.", style="bold", highlight=False)


def markdown_from_report(report: Report, picture: str, cascade_picture: str = "") -> str:
    """The report as Markdown.

    picture, cascade_picture: file names of charts beside the report: of accuracy and cost, of the cascade
    """
    results, tables = report.results, grids(report)
    hardest, target = tables["by_class"], report.measurements.images.target
    parts = [
        f"# Benchmark of {markdown_cell(report.measurements.bundle.name)}",
        markdown_text(results.headline),
        markdown_text(results.cascade.headline) if results.cascade else "",
        "## Verdicts",
        "\n".join(
            f"- **{markdown_cell(v.question)}** {_answer(v)}: {markdown_cell(v.text)} "
            f"*Threshold: {markdown_cell(v.threshold)}.*"
            for v in results.verdicts
        ),
        "\n".join(f"- **{markdown_cell(warning)}**" for warning in results.warnings),
        f"![accuracy against cost]({picture})" if results.engines else "",
        _markdown_table(tables["summary"]),
        "## Accuracy by domain",
        _markdown_table(tables["domains"]),
        _markdown_table(tables["quality"]),
        *_section(
            markdown_text(f"The hardest classes of {target} for {results.primary}:"),
            Grid(hardest.columns, hardest.rows[:10] if results.primary else []),
        ),
        *_section("What they are taken for:", tables["confused"]),
        *_section("## Cascade", tables["cascade"]),
        f"![accuracy of the cascade against its cost]({cascade_picture})" if results.cascade else "",
        *_section("At the chosen threshold, by domain:", tables["cascade_domains"]),
        "## Timing",
        SCOPES,
        _markdown_table(tables["timings"]),
        *_section("## Scenarios", tables["mlperf"], NOT_MLPERF),
        *_section("## Memory, load time, energy", tables["processes"]),
        *_section("## Roofline", tables["rooflines"]),
        *_section("## Cost", tables["cost"]),
        *_section("Sensitivity to utilisation:", tables["sensitivity"]),
        "## How it was measured and computed",
        "\n".join(f"- {note}" for note in (*map(markdown_text, notes(report)), *FORMULAS)),
        "\n".join(f"- {markdown_text(name)}: {markdown_code(value)}" for name, value in facts(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headliners(report: Report) -> list[str]:
    """The headline's engine and the teacher, for which a terminal has room."""
    teachers = [engine.name for engine in report.measurements.engines if engine.kind == "teacher"]
    names = [report.results.primary, *teachers]
    return [name for name in names if name is not None and name in report.results.engines]


def _answer(verdict: Verdict) -> str:
    return verdict.answer.capitalize()


def _rich_table(grid: Grid) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(grid.columns):
        words = number == 0 or number in grid.words
        # In a narrow terminal names may wrap, but not numbers.
        table.add_column(
            Text(shown(heading)), justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    for row in grid.rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


def _section(heading: str, grid: Grid, *notes: str) -> list[str]:
    return [heading, _markdown_table(grid), *notes] if grid.rows else []


def _markdown_table(grid: Grid) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(markdown_cell, cells))} |"

    words = {0, *grid.words}
    rule = ["---" if number in words else "---:" for number in range(len(grid.columns))]
    return "\n".join(line(row) for row in (grid.columns, rule, *grid.rows))
