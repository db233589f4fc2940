"""A report for people: the same tables in the terminal and in report.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vl2v_deploy.benchmark.report import usd

NONE = "-"
NOISY = 1.5  # mean over median; beyond it a few iterations were held up by something else
Grid = list[list[str]]  # the first row is the header


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Summary, domains and verdict, to the terminal."""
    for grid in (summary_grid(report), domain_grid(report)):
        table = Table(*grid[0][:1], box=None, header_style="bold", pad_edge=False)
        for heading in grid[0][1:]:  # names may wrap in a narrow terminal, numbers may not
            table.add_column(heading, justify="right", no_wrap=True)
        for row in grid[1:]:
            table.add_row(*row)
        console.print(table)
        console.print()
    for warning in warnings(report):
        console.print(warning, style="yellow", markup=False, highlight=False)
    for note in notes(report):
        console.print(note, style="dim", markup=False, highlight=False)
    console.print(report["verdict"], markup=False, highlight=False)


def markdown_from_report(report: Mapping[str, Any], plot_name: str) -> str:
    """The report as Markdown.

    plot_name: the plot's file name, beside the report
    """
    bundle, device = report["bundle"], report["device"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [
        f"# Benchmark of {bundle['name']}",
        report["verdict"],
        *(f"**{warning}**" for warning in warnings(report)),
        _markdown_table(summary_grid(report)),
        f"![accuracy against cost]({plot_name})",
        "## Accuracy by domain",
        _markdown_table(domain_grid(report)),
        "## Timing",
        "`bytes_to_label`: encoded image bytes to label. `tensor_to_logits`: preprocessed tensor in host "
        "memory to logits in host memory.",
        _markdown_table(timing_grid(report)),
        "## How it was measured",
        "\n".join(f"- {note}" for note in notes(report)),
        f"- Device: {device['cpu']}, {device['physical_cores']} physical cores; {device['system']}\n"
        f"- Versions: {versions}\n- Recipe SHA-256: `{report['recipe_sha256']}`\n"
        f"- Model SHA-256: `{bundle['onnx_sha256']}`\n- Command: `{report['command']}`",
    ]
    return "\n\n".join(parts) + "\n"


def summary_grid(report: Mapping[str, Any]) -> Grid:
    """One row a model: accuracy, latency, throughput, cost, size."""
    summary = report["summary"]
    grid = [["", "ID %", "OOD %", "p50 ms", "p90 ms", "images/s", "USD/million", "MB"]]
    for name, row in summary.items():
        ood, best = row["ood"], row["best_batch"]
        cost, size = row["usd_per_million"], row["model_bytes"]
        grid.append(
            [
                name if row["measured"] else f"{name} (recorded)",
                _percent(row["id_accuracy"]),
                _with_interval(ood),
                _ms(row["p50_ms"]),
                _ms(row["p90_ms"]),
                NONE if best is None else f"{row['images_per_s']:.1f} ({best})",
                NONE if cost is None else usd(cost),
                NONE if size is None else f"{size / 1e6:.1f}",
            ]
        )
    return grid


def domain_grid(report: Mapping[str, Any]) -> Grid:
    """One row a domain: how it was used, the student, the teacher, how often they agree."""
    student = report["accuracy"]["student"]
    teacher = report["accuracy"].get("teacher", {})
    recorded = (report["recorded_accuracy"] or {}).get("teacher") or {}
    grid = [["domain", "", "images", "student %", "teacher %" if teacher else "recorded teacher %"]]
    if teacher:
        grid[0].append("agree %")
    for domain, mine in student.items():
        theirs = recorded.get(domain)
        row = [
            domain,
            "ID" if mine["role"] == "source" else "OOD",
            str(mine["n"]) if mine["n"] == mine["of"] else f"{mine['n']} of {mine['of']}",
            _with_interval(mine),
            _with_interval(teacher[domain]) if teacher else NONE if theirs is None else _percent(theirs),
        ]
        grid.append(row if mine["agreement"] is None else [*row, _percent(mine["agreement"])])
    return grid


def timing_grid(report: Mapping[str, Any]) -> Grid:
    """One row for each engine, scope and batch size."""
    grid = [["engine", "scope", "batch", "samples", "mean ms", "p50 ms", "p90 ms", "p99 ms", "images/s"]]
    for name, engine in report["engines"].items():
        for cell in engine["cells"]:
            times = [_ms(cell[key]) for key in ("mean_ms", "p50_ms", "p90_ms", "p99_ms")]
            head = [name, cell["scope"], str(cell["batch"]), str(cell["n"])]
            grid.append([*head, *times, f"{cell['images_per_s']:.1f}"])
    return grid


def warnings(report: Mapping[str, Any]) -> list[str]:
    """Where the numbers do not mean what a reader would take them for."""
    found, data, provenance = [], report["data"], report["provenance"]
    for name, row in report["summary"].items():
        if row["p50_ms"] is not None and row["mean_ms"] > NOISY * row["p50_ms"]:
            found.append(
                f"Noisy machine: the mean latency of {name} ({_ms(row['mean_ms'])} ms) is far above its "
                f"median ({_ms(row['p50_ms'])} ms); close other programs and run again."
            )
    if data["subsampled"]:
        most = report["options"]["max_images"]
        found.append(f"Subsampled: accuracy is of at most {most} images a domain, not of all.")
    if data["skipped"]:
        found.append(f"{len(data['skipped'])} images that do not decode were left out.")
    if provenance["distilled_data"] not in (None, provenance["data"]):
        found.append(
            "Other data: these images or their split are not those of the distillation; the student may have "
            "been trained on some of them."
        )
    if provenance["teacher"] and provenance["distilled_teacher"] not in (None, provenance["teacher"]):
        found.append(
            f"Other teacher: {provenance['teacher']} was measured, the student was distilled from "
            f"{provenance['distilled_teacher']}."
        )
    return found


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know to trust, or not to trust, the numbers."""
    student = report["summary"]["student"]
    lines = [
        f"ID: source domains, seen in distillation; their mean. OOD: {student['ood']['domain']}, unseen.",
        f"Latency: encoded image to label, batch {student['latency_batch']}. Images/s: at the best batch, "
        "in parentheses.",
    ]
    lines += [f"{name}: {_engine_note(engine)}" for name, engine in report["engines"].items()]
    lines += [
        f"Cost of {name}: {row['priced_as']}."
        for name, row in report["summary"].items()
        if row["priced_as"] is not None
    ]
    if report["break_even_inferences"] is not None:
        lines.append(
            f"Break-even: the distillation (${usd(report['options']['distillation_usd'])}) is paid for after "
            f"{report['break_even_inferences']:,.0f} images."
        )
    intervals = sorted({domain["interval"] for domain in report["accuracy"]["student"].values()})
    lines.append(
        f"Intervals: 95 %, {', '.join(intervals)}. A percentile with fewer than ten samples beyond it"
    )
    lines[-1] += " is withheld (-)."
    if "teacher" in report["engines"]:
        images = sum(domain["n"] for domain in report["accuracy"]["teacher"].values())
        sent = report["provenance"]["teacher_queries"]
        lines.append(
            f"Teacher accuracy: {sent} of {images} images were sent to it, the others' embeddings were in "
            "the store already."
        )
    return lines


def _engine_note(engine: Mapping[str, Any]) -> str:
    peak = engine["peak_rss_bytes"]
    memory = "" if peak is None else f", peak memory {peak / 1e6:.0f} MB"
    return (
        f"{engine['provider']}, {engine['threads']} thread(s), loaded in {engine['load_s']:.2g} s{memory}, "
        "own process, engines taking turns."
    )


def _markdown_table(grid: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = ["---"] + ["---:"] * (len(grid[0]) - 1)
    return "\n".join(line(row) for row in (grid[0], rule, *grid[1:]))


def _with_interval(accuracy: Mapping[str, Any]) -> str:
    if accuracy["low"] is None:
        return _percent(accuracy["accuracy"])
    low, high = _percent(accuracy["low"]), _percent(accuracy["high"])
    return f"{_percent(accuracy['accuracy'])} ({low}-{high})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _ms(milliseconds: float | None) -> str:
    return (
        NONE
        if milliseconds is None
        else f"{milliseconds:.3g}"
        if milliseconds < 100
        else f"{milliseconds:.0f}"
    )
