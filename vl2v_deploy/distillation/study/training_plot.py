"""training.png: what happened in a run, at a glance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl2v_deploy.escapes import names_as_text
from vl2v_deploy.method.reports import BestReport, SwadReport
from vl2v_deploy.models.record import RunRecord
from vl2v_deploy.models.record_parts.measured import StageReport
from vl2v_deploy.models.run_directory import METRICS
from vl2v_deploy.recipe import STAGES

# Okabe and Ito's palette, distinct with any kind of colour blindness. Hatches help in grey print.
BLUE, ORANGE, GREEN, YELLOW, SKY, RED, PURPLE, GREY = (
    *("#0072b2", "#e69f00", "#009e73", "#f0e442", "#56b4e9", "#d55e00", "#cc79a7", "#8b949e"),
)


@names_as_text()
def plot_run(run: Path, record: RunRecord, path: Path | None = None) -> None:
    """Write training.png into the run (or to `path`): the course of each stage, and accuracy in every domain.

    A run without stages, such as the zero-shot teacher, has the accuracies only.
    """
    lines = _metrics(run / METRICS)
    stages = [stage for stage in STAGES if any(line["stage"] == stage for line in lines)]
    figure = Figure(figsize=(6 + 4.5 * len(stages), 6.5 if stages else 4), layout="constrained")
    figure.suptitle(f"{record.method}, target {record.target}", fontsize=11)
    if not stages:
        _plot_accuracy(figure.add_subplot(), record)
    else:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.5 * len(stages), 6])[0]
        grid = left.subplots(3, len(stages), squeeze=False, sharex="col")
        for column, stage in enumerate(stages):
            of_stage = [line for line in lines if line["stage"] == stage]
            _plot_stage(grid[:, column], stage, of_stage, record.stages[stage])
        _plot_accuracy(right.add_subplot(), record)
    figure.savefig(path or run / "training.png", dpi=120)


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _plot_stage(axes: Sequence[Axes], stage: str, lines: list[dict[str, Any]], report: StageReport) -> None:
    """Training loss, validation loss and validation accuracy of one stage, one below the other."""
    averaging = report.averaging
    panels = (
        ("loss", "training loss", 1),
        ("val_loss", "val loss, nats", 1),
        ("val_accuracy", "val accuracy, %", 100),
    )
    for axis, (key, label, scale) in zip(axes, panels, strict=True):
        points = [(line["step"] + 1, scale * line[key]) for line in lines if key in line]
        marker = "" if key == "loss" else "o"
        if points:
            axis.plot(*zip(*points, strict=True), color=BLUE, lw=1.3, marker=marker, ms=3)
        else:
            axis.text(0.5, 0.5, "not evaluated", transform=axis.transAxes, ha="center", color=GREY)
        axis.set_ylabel(label, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        _mark_weights(axis, report)
    if isinstance(averaging, SwadReport) and averaging.threshold is not None:
        axes[1].axhline(averaging.threshold, color=RED, ls="--", lw=1.2, label="SWAD threshold")
        axes[1].legend(frameon=False, fontsize=8)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, fontsize=8)
    axes[0].set_title(stage, fontsize=10)
    axes[-1].set_xlabel("step", fontsize=9)


def _mark_weights(axis: Axes, report: StageReport) -> None:
    """Show which weights the stage ended with."""
    if report.handed_over is not None:
        label = "handed over: these weights"
        axis.axvline(report.handed_over.step + 1, color=RED, lw=1.2, ls=":", label=label)
        return
    match report.averaging:
        case SwadReport(start_step=int(first), end_step=int(last), converged=converged):
            label = "SWAD window" if converged else "no valley found: the last segment"
            axis.axvspan(first + 0.5, last + 1.5, color=GREEN, alpha=0.18, lw=0, label=label)
        case BestReport(kind=kind, step=int(step)):
            axis.axvline(step + 1, color=RED, lw=1.2, ls=":", label=f"{kind}: these weights")


def _plot_accuracy(axes: Axes, record: RunRecord) -> None:
    accuracy, target = record.accuracy, record.target
    bars: tuple[tuple[str, str, str, Mapping[str, float | None]], ...] = (
        ("this run", BLUE, "", accuracy.student),
        ("teacher, zero-shot", GREY, "", accuracy.teacher),
        ("linear probe of the student", ORANGE, "//", accuracy.linear_probe),
    )
    domains = sorted(accuracy.student, key=lambda domain: (domain == target, domain))
    places, width = np.arange(len(domains)), 0.82 / len(bars)
    for number, (name, colour, hatch, shares) in enumerate(bars):
        heights = [math.nan if (share := shares[domain]) is None else 100 * share for domain in domains]
        where = places + (number - (len(bars) - 1) / 2) * width
        drawn = axes.bar(where, heights, width, color=colour, hatch=hatch, edgecolor="white", label=name)
        texts = ["-" if math.isnan(height) else f"{height:.0f}" for height in heights]
        axes.bar_label(drawn, texts, fontsize=8)
    if not record.ood_unknown:
        axes.axvspan(len(domains) - 1.5, len(domains) - 0.5, color=RED, alpha=0.08, lw=0, zorder=0)
    labels = [f"{domain}\n({record.target_role})" if domain == target else domain for domain in domains]
    axes.set_xticks(places, labels, fontsize=8, rotation=20, ha="right", rotation_mode="anchor")
    axes.set(ylabel="accuracy, %", ylim=(0, 118), yticks=range(0, 101, 20))
    unknown = f"; OOD {record.ood_unknown}" if record.ood_unknown else ""
    axes.set_title(f"accuracy per domain, test images{unknown}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(bars), loc="upper center", fontsize=8)
