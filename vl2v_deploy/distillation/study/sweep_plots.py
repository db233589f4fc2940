"""Lines over a swept quantity: lambda (the paper's figure 4), and how many images were bought."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl2v_deploy.distillation.study.comparison import (
    EMBEDDED,
    ComparableRows,
    Row,
    mean_over_targets,
)
from vl2v_deploy.distillation.study.results import Result
from vl2v_deploy.distillation.study.training_plot import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
)
from vl2v_deploy.recipe import METHODS, HttpRecipe

LAMBDA = "distill.image_weight"
LOOKS = [
    (hatch, colour)
    for hatch, colour in product(("", "//", "xx"), (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY))
]


MARKERS = "osD^vP*X" * 3


def draw_lambda(comparison: ComparableRows, path: Path) -> str | None:
    """The paper's figure 4: OOD and ID accuracy against lambda; what is missing, if it is.

    One pair of lines for each method and combination of its other swept settings.
    """
    sweeps: dict[str, list[tuple[float, Row]]] = {}
    for row in comparison.rows:
        setting = dict(row.setting)
        if METHODS[row.method].has_lambda and LAMBDA in setting:
            place = setting.pop(LAMBDA)
            if setting.get("align.image_weight") == place:  # lambda of both stages moves together
                del setting["align.image_weight"]
            others = replace(row, setting=tuple(setting.items())).label
            sweeps.setdefault(others, []).append((place, row))
    sweeps = {label: rows for label, rows in sweeps.items() if len(rows) > 1}
    if not sweeps:
        return (
            f"no runs sweep lambda; make some with: vl2v-deploy sweep RECIPE --set {LAMBDA}=0,0.25,0.5,0.75,1"
        )
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    shares: tuple[tuple[str, Callable[[Result], float | None]], ...] = (
        ("OOD accuracy, %", lambda run: run.ood_accuracy),
        ("ID accuracy, %", lambda run: run.id_accuracy),
    )
    for axes, (title, value) in zip(panels, shares, strict=True):
        for (label, rows), (_, colour), marker in zip(sweeps.items(), LOOKS, MARKERS, strict=False):
            _line(axes, label, rows, value, len(comparison.targets), colour, marker)
        axes.set(xlabel="λ (weight of the image term)", ylabel=title)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    targets = ", ".join(comparison.targets)
    title = f"{comparison.title}; mean over targets {targets}{errors_note(comparison)}"
    figure.suptitle("\n".join(textwrap.wrap(title, 110)), fontsize=9)
    figure.savefig(path, dpi=130)
    return None


def has_budgets(comparison: ComparableRows) -> bool:
    """Whether some run had the teacher's embeddings of a part of its training images only."""
    trainings = (run.record.teacher.training for row in comparison.rows for run in row.results)
    return any(training is not None and training.embedded < training.images for training in trainings)


def draw_budget(comparison: ComparableRows, path: Path) -> str | None:
    """OOD accuracy against the training images with an embedding, and what a point more costs between two.

    Returns what is missing, if it is. One line for each method and combination of its other settings.
    """
    sweeps: dict[str, list[tuple[float, Row]]] = {}
    for row in comparison.rows:
        if row.embedded is not None:
            kept = tuple(item for item in row.setting if item[0] not in (EMBEDDED, "missing_embeddings"))
            sweeps.setdefault(replace(row, setting=kept).label, []).append((row.embedded, row))
    sweeps = {label: rows for label, rows in sweeps.items() if len({bought for bought, _ in rows}) > 1}
    if not sweeps:
        return (
            "no runs differ in how many images have an embedding; for several N: vl2v-deploy teacher embed "
            "RECIPE --budget N; vl2v-deploy distill RECIPE --set missing_embeddings=text_term --out RUN-N"
        )
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for (label, rows), (_, colour), marker in zip(sweeps.items(), LOOKS, MARKERS, strict=False):
        _line(axes, label, rows, lambda run: run.ood_accuracy, len(comparison.targets), colour, marker)
        for x, y, price in marginal_prices(rows, len(comparison.targets)):
            axes.annotate(
                price,
                (x, y),
                xytext=(0, -14),
                textcoords="offset points",
                fontsize=7,
                color=colour,
                ha="center",
            )
    axes.set(xlabel="training images with a teacher embedding", ylabel="OOD accuracy, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    targets = ", ".join(comparison.targets)
    title = f"{comparison.title}; mean over targets {targets}{errors_note(comparison)}"
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=9)
    figure.savefig(path, dpi=130)
    return None


def marginal_prices(rows: Sequence[tuple[float, Row]], targets: int) -> list[tuple[float, float, str]]:
    """Between each two neighbours of a line: the middle of the segment, and what a point of accuracy costs.

    rows: with the number of images of each; a row without a mean is left out
    """
    points = [
        (bought, 100 * mean.mean, row)
        for bought, row in sorted(rows, key=lambda at: at[0])
        if (mean := mean_over_targets(row.by_trial(lambda run: run.ood_accuracy), targets))
    ]
    found = []
    for (x0, y0, _), (x1, y1, row) in pairwise(points):
        gained, images = y1 - y0, x1 - x0
        if gained <= 0:
            words = "no gain"
        elif usd := _usd_per_image(row.results[0]):
            words = f"${images * usd / gained:,.2g} a point"
        else:
            words = f"{images / gained:,.0f} images a point"
        found.append(((x0 + x1) / 2, (y0 + y1) / 2, words))
    return found


def _usd_per_image(result: Result) -> float | None:
    """What the embedding of a training image costs, all its views together; None where no price is known."""
    teacher, views = result.recipe.teacher, result.recipe.teacher_views
    if not isinstance(teacher, HttpRecipe) or views == "online":
        return None
    return max(1, views) * teacher.usd_per_1k_images / 1000 or None


def _line(
    axes: Axes,
    label: str,
    rows: Sequence[tuple[float, Row]],
    value: Callable[[Result], float | None],
    targets: int,
    colour: str,
    marker: str,
) -> None:
    """One line of figure 4; a point over fewer targets or trials is hollow and has a note."""
    points = [
        (x, mean)
        for x, row in sorted(rows, key=lambda at: at[0])
        if (mean := mean_over_targets(row.by_trial(value), targets))
    ]
    xs, ys = [x for x, _ in points], [100 * mean.mean for _, mean in points]
    errors = [100 * (mean.se or 0.0) for _, mean in points]
    axes.errorbar(xs, ys, yerr=errors, color=colour, marker=marker, capsize=3, lw=1.5, label=label)
    for x, mean in points:
        if mean.mark:
            axes.plot([x], [100 * mean.mean], marker, color=colour, mfc="white", zorder=3)
            axes.annotate(
                mean.mark, (x, 100 * mean.mean), xytext=(4, 6), textcoords="offset points", fontsize=7
            )


def errors_note(comparison: ComparableRows) -> str:
    """What the error bars are, as a title ends."""
    most = max(len(row.trials()) for row in comparison.rows)
    return f"; error bars: standard error over up to {most} trials" if most > 1 else "; one trial"
