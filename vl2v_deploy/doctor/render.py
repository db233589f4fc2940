"""The report for people: a table on a terminal where rich is installed, else plain lines."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from vl2v_deploy.doctor.findings import Level, Report

_STYLES: dict[Level, str] = {
    "ok": "green",
    "note": "cyan",
    "warning": "yellow",
    "broken": "bold red",
    "unknown": "magenta",
}


def print_report(report: Report) -> None:
    """Every finding with its fix, and how many there are of what needs one."""
    if sys.stdout.isatty() and find_spec("rich"):
        _print_table(report)
    else:  # a file, or another program: lines that are whole
        print("\n".join(lines_of(report)))


def lines_of(report: Report) -> list[str]:
    """The report in plain lines."""
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.level:8} {finding.check}: {finding.what}")
        if finding.fix:
            lines.append(f"{'':8} fix: {finding.fix}")
    return [*lines, summary(report)]


def summary(report: Report) -> str:
    """The last line: what is wrong, in numbers."""
    counted = {
        "broken": report.count("broken"),
        "warnings": report.count("warning"),
        "could not be found out": report.count("unknown"),
    }
    state = "Something is broken" if report.broken else "Nothing is broken"
    return "; ".join([state, *(f"{words}: {number}" for words, number in counted.items() if number)])


def _print_table(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    from vl2v_deploy.terminal import new_console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    shown_before = ""
    for finding in report.findings:
        check = finding.check if finding.check != shown_before else ""
        shown_before = finding.check
        text = Text(finding.what)
        if finding.fix:
            text.append(f"\n-> {finding.fix}", style="italic")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(check), text)
    console = new_console()
    console.print(table)
    console.print(summary(report), style="bold red" if report.broken else "bold green")
