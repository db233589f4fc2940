"""training.png: what happened in a run, at a glance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl2v_deploy.models.run_directory import METRICS

COLOURS = {"student": "#1f6feb", "teacher": "#8b949e", "linear_probe": "#d4a72c"}
NAMES = {"student": "student", "teacher": "teacher, zero-shot", "linear_probe": "linear probe of the student"}


def plot_run(run: Path, record: dict[str, Any]) -> None:
    """Write training.png into the run: the loss of both stages, and accuracy in every domain."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2, width_ratios=[2, 3])
    _plot_losses(loss_axes, run / METRICS)
    _plot_accuracy(accuracy_axes, record["accuracy"])
    figure.savefig(run / "training.png", dpi=120)


def _plot_losses(axes: Axes, metrics: Path) -> None:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    for stage, colour in (("align", "#8250df"), ("distill", "#1f6feb")):
        points = [(line["step"] + 1, line["loss"]) for line in lines if line["stage"] == stage]
        axes.plot(*zip(*points, strict=True), color=colour, label=stage)
    axes.set(xlabel="step of the stage", ylabel="loss (-cosine)", xscale="log", title="Training loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _plot_accuracy(axes: Axes, accuracy: dict[str, Any]) -> None:
    target = accuracy["target"]
    domains = [*sorted(set(accuracy["student"]) - {target}), target]
    places, width = np.arange(len(domains)), 0.27
    for shift, (key, colour) in enumerate(COLOURS.items()):
        heights = [100 * accuracy[key][domain] for domain in domains]
        bars = axes.bar(places + (shift - 1) * width, heights, width, color=colour, label=NAMES[key])
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.axvspan(len(domains) - 1.5, len(domains) - 0.5, color="#cf222e", alpha=0.08, lw=0, zorder=0)
    labels = [f"{d}\n(target, OOD)" if d == target else d for d in domains]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set(
        ylabel="accuracy, %", ylim=(0, 118), yticks=range(0, 101, 20), title="Held-out accuracy per domain"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper center", fontsize=8)
