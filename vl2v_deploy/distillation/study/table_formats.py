"""Tables on the terminal and as Markdown, CSV, LaTeX and JSON, and the records that they were made from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from vl2v_deploy.distillation.study.comparison import Mean
from vl2v_deploy.distillation.study.results import record_line
from vl2v_deploy.distillation.study.table import MISSING, Table, trials
from vl2v_deploy.escapes import csv_cell, latex_cell, latex_comment, markdown_cell, markdown_text
from vl2v_deploy.names import shown

CSV_HEAD = ("table", "method", "selection", "column", "mean_percent", "se_percent", "trials", "missing")


def write_tables(made: Sequence[Table], out: Path) -> list[Path]:
    """Write table.md, .csv, .tex and .json into the folder `out`, and runs.jsonl; the files.

    runs.jsonl has one line per run; `tables` makes the same tables from it, also together with other runs.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs = [run for table in made for row in table.rows for run in row.results]
    texts = {
        "table.md": "\n".join(_markdown(table) for table in made),
        "table.csv": _csv(made),
        "table.tex": "\n".join(_latex(table) for table in made),
        "table.json": json_of_tables(made),
        "runs.jsonl": "".join(f"{record_line(run)}\n" for run in runs),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def json_of_tables(made: Sequence[Table]) -> str:
    """The tables as JSON, ended by a line break."""
    return json.dumps([_tree(table) for table in made], indent=2) + "\n"


def print_tables(made: Sequence[Table], console: Console) -> None:
    if len(made) > 1:
        console.print(f"{len(made)} tables: the runs are of several data sets, splits or teachers.\n")
    for table in made:
        printed = RichTable(title=Text(shown(f"{table.title}, %")))
        # On a narrow terminal names break between words, and domains anywhere rather than being cut off.
        words = [word for row in table.rows for word in shown(row.label).split()]
        printed.add_column("method", min_width=max(map(len, words)))
        for column in table.columns:
            printed.add_column(Text(shown(column)), justify="right", overflow="fold")
        printed.add_column("trials", justify="right")
        for column in table.latency:
            printed.add_column(column, justify="right")
        for number, row in enumerate(table.rows):
            texts = (
                Text(_text(value), style="bold" if (number, place) in table.best else "")
                for place, value in enumerate(table.cells[number])
            )
            printed.add_row(Text(shown(row.label)), *texts, trials(table, number), *_latency(table, number))
        console.print(printed)
        for note in table.notes:
            console.print(Text(shown(note)))
        console.print()


def _text(value: Mean | None) -> str:
    if value is None:
        return MISSING
    error = "" if value.se is None else f" ± {100 * value.se:.1f}"
    return f"{100 * value.mean:.1f}{error}" + (f" [{value.mark}]" if value.mark else "")


def _latency(table: Table, row: int) -> list[str]:
    """The row's milliseconds, in the order of the columns."""
    found = [column[row] for column in table.latency.values()]
    return [MISSING if ms is None else f"{ms:.2f}" for ms in found]


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    columns = map(markdown_cell, table.columns)
    lines = [f"**{markdown_cell(table.title)}**, %", "", line(["method", *columns, "trials", *table.latency])]
    lines.append("|---|" + "---:|" * (len(table.columns) + 1 + len(table.latency)))
    for number, row in enumerate(table.rows):
        texts = [
            f"**{_text(value)}**" if (number, place) in table.best else _text(value)
            for place, value in enumerate(table.cells[number])
        ]
        after = (trials(table, number), *_latency(table, number))
        lines.append(line([markdown_cell(row.label), *texts, *after]))
    return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in table.notes), ""])


def _csv(made: Sequence[Table]) -> str:
    """One line per cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in made:
        for row, cells in zip(table.rows, table.cells, strict=True):
            for column, value in zip(table.columns, cells, strict=True):
                head = [csv_cell(text) for text in (table.title, row.label, row.selection, column)]
                if value is None:
                    writer.writerow((*head, "", "", 0, "all"))
                    continue
                error = "" if value.se is None else f"{100 * value.se:.4f}"
                writer.writerow((*head, f"{100 * value.mean:.4f}", error, value.trials, value.mark))
    return text.getvalue()


def _latex(table: Table) -> str:
    """A booktabs tabular; the notes are comments above it."""

    def cell_text(value: Mean | None, *, best: bool) -> str:
        text = latex_cell(_text(value)).replace("±", r"$\pm$")
        return rf"\textbf{{{text}}}" if best else text

    head = " & ".join(latex_cell(text) for text in ("method", *table.columns, "trials", *table.latency))
    lines = [latex_comment(note) for note in (f"{table.title}, percent", *table.notes)]
    lines += [
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) + 1 + len(table.latency))}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        texts = [
            cell_text(value, best=(number, place) in table.best)
            for place, value in enumerate(table.cells[number])
        ]
        after = (trials(table, number), *_latency(table, number))
        lines.append(" & ".join([latex_cell(row.label), *texts, *after]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tree(table: Table) -> dict[str, Any]:
    """The table as JSON, shares of 1."""
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [
            {
                "label": row.label,
                "method": row.method,
                "setting": dict(row.setting),
                "selection": row.selection,
                "adapted": row.adapted,
                "seeds": sorted({run.recipe.seed for run in row.results}),
                "ood": {
                    target: _cell_tree(value) for target, value in zip(table.targets, cells, strict=False)
                },
                "summary": {
                    column: _cell_tree(value)
                    for column, value in list(zip(table.columns, cells, strict=True))[len(table.targets) :]
                },
                **(
                    {"latency": {column: found[number] for column, found in table.latency.items()}}
                    if table.latency
                    else {}
                ),
            }
            for number, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True))
        ],
        "notes": table.notes,
    }


def _cell_tree(value: Mean | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
