"""A shortlist on the terminal, as JSON, and as a sweep of what was chosen."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vl2v_deploy.distillation.study.latency import Latency
from vl2v_deploy.distillation.sweep_file import write_sweep
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.names import command, shown
from vl2v_deploy.shortlist.run import Candidate, Shortlist

FORMAT = 1
BUSY = 1.5  # medians above so many times the fastest sample say little of a quiet machine


def tree_of_shortlist(made: Shortlist) -> dict[str, Any]:
    """The shortlist as JSON; of each candidate also the precisions that fit."""
    tree = asdict(made)
    for candidate, found in zip(made.measured, tree["measured"], strict=True):
        found["fits"] = candidate.fitting(made.latency_ms)
    return {"format": FORMAT, **tree}


def print_shortlist(made: Shortlist, console: Console) -> None:
    """The table, of M parameters and more, what fits in bold, and what a reader must know."""
    title = f"{made.image_size_px} px, one image, {_machine(made)}"
    table = Table(title=title, box=None, pad_edge=False)
    table.add_column("backbone", overflow="fold", min_width=24)
    for name in ("M", "M MACs", "MB", "int8", "ms", "int8"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ImageNet top-1", overflow="fold")
    for candidate in made.measured:
        chosen = candidate.backbone in made.chosen
        table.add_row(Text(f"{candidate.backbone}{'*' if chosen else ''}"), *_cells(candidate, made))
    console.print(table)
    for line in lines_below(made):
        console.print(Text(shown(line)), soft_wrap=True)


def lines_below(made: Shortlist) -> list[str]:
    """What a reader must know, one sentence a line."""
    lines = [
        "M: million parameters. Weights are random: latency and size do not depend on them. Medians of "
        f"{made.rounds} rounds, from pixels to logits; decoding and resizing come on top.",
        "int8: what it costs in accuracy is known when the trained student is exported, which may put "
        "layers back into fp32.",
    ]
    if made.busy > BUSY:
        lines.append(
            f"This machine was busy: a median is {made.busy:.1f} times the fastest sample of its file. "
            "Measure again when nothing else runs."
        )
    if not any(each.imagenet_top1 for each in made.measured):
        lines.append(
            "ImageNet accuracy: timm's package does not carry it; --accuracy takes "
            "results/results-imagenet.csv of timm's repository. Shown are the tags of its pretrained weights."
        )
    lines += [f"Not measured: {name}: {why}" for name, why in made.failed.items()]
    lines += [
        f"{each.backbone}: no {precision} file: {why}"
        for each in made.measured
        for precision, why in each.refused.items()
    ]
    if made.left_out:
        lines.append(f"Left out, for want of time (--minutes): {', '.join(made.left_out)}.")
    if made.chosen:
        lines.append(f"* the best within {made.latency_ms:g} ms by {made.ranked_by}.")
    else:
        lines.append(_none_fits(made))
    return lines


def write_sweep_of(made: Shortlist, recipe: Path, out: Path) -> str:
    """Write a sweep over the chosen backbones; the line that says what to do with it.

    Raises BenchmarkError when fewer than two were chosen: then there is nothing to sweep.
    """
    if not made.chosen:
        raise BenchmarkError(f"{out} is not written: {_none_fits(made)}")
    if len(made.chosen) == 1:
        raise BenchmarkError(
            f"{out} is not written: only {made.chosen[0]} is within {made.latency_ms:g} ms and was kept; set "
            f"student.backbone: {made.chosen[0]}, or raise --latency-ms or --keep"
        )
    times = {each.backbone: each.median_ms for each in made.measured if each.backbone in made.chosen}
    values = {"student.backbone": made.chosen, "student.weights": ["timm"]}
    latency = Latency(made.image_size_px, times, _machine(made))
    comment = f"vl2v-deploy shortlist: within {made.latency_ms:g} ms, the best by {made.ranked_by}"
    write_sweep(out, recipe, values, latency, comment)
    return f"Wrote {out}. Next: {command('sweep', out)}"


def _machine(made: Shortlist) -> str:
    threads = "" if made.threads is None else f", {made.threads} thread(s)"
    return f"{made.device.get('cpu', 'CPU')}{threads}"


def _cells(candidate: Candidate, made: Shortlist) -> list[Text]:
    fits = candidate.fitting(made.latency_ms)
    precisions = ("fp32", "int8")
    cells = [Text(f"{candidate.parameters / 1e6:.1f}"), Text(f"{candidate.macs / 1e6:.0f}")]
    cells += [Text(f"{candidate.bytes[p] / 1e6:.1f}" if p in candidate.bytes else "-") for p in precisions]
    cells += [
        Text(
            f"{candidate.median_ms[p]:.2f}" if p in candidate.median_ms else "-",
            style="bold green" if p in fits else "",
        )
        for p in precisions
    ]
    return [*cells, Text(_accuracy(candidate))]


def _accuracy(candidate: Candidate) -> str:
    if candidate.imagenet_top1:
        top1, size_px = candidate.imagenet_top1
        return f"{top1:.1f} % ({size_px} px) {candidate.pretrained[0]}"
    if not candidate.pretrained:
        return "no pretrained weights"
    more = len(candidate.pretrained) - 1
    return f"? {candidate.pretrained[0]}{f' +{more}' if more else ''}"


def _none_fits(made: Shortlist) -> str:
    """Why nothing was chosen."""
    if not made.measured:
        return "no backbone could be measured"
    fit = [each.backbone for each in made.measured if each.fitting(made.latency_ms)]
    if fit:
        return f"timm has pretrained weights of none that fit: {', '.join(fit)}"
    fastest = min(made.measured, key=lambda each: min(each.median_ms.values()))
    return (
        f"none of {len(made.measured)} answers within {made.latency_ms:g} ms; the fastest, "
        f"{fastest.backbone}, takes {min(fastest.median_ms.values()):.2f} ms"
    )
