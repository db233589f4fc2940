"""`vl2v-deploy plot`: the paper's figures 3 and 4, and accuracy per domain, from finished runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl2v_deploy.distillation.study.comparison import (
    ComparableRows,
    Mean,
    Row,
    comparisons,
    mean_over_targets,
    means_of_targets,
)
from vl2v_deploy.distillation.study.results import Result, load_results
from vl2v_deploy.distillation.study.sweep_plots import (
    LOOKS,
    draw_budget,
    draw_lambda,
    errors_note,
    has_budgets,
)
from vl2v_deploy.distillation.study.training_plot import (
    plot_run,
)
from vl2v_deploy.escapes import names_as_text
from vl2v_deploy.models.run_directory import METRICS

MOST_CLASSES = 40  # more are not readable side by side


@dataclass
class Drawn:
    """files: what was written; missing: what was not, and why, a sentence each."""

    files: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def draw_figures(runs: Sequence[Path], out: Path) -> Drawn:
    """Write methods.png, per_class.png, lambda.png and the runs' training curves into the folder `out`.

    Of runs with a part of the teacher's embeddings there is budget.png too.

    Runs that do not compare get one folder per table (table-1, table-2, ...).

    Raises RunError (see results.load_results and comparison.comparisons).
    """
    results = load_results(runs)
    compared = comparisons(results)
    drawn = Drawn()
    for number, comparison in enumerate(compared, start=1):
        folder = out if len(compared) == 1 else out / f"table-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        draws = [
            ("methods.png", draw_methods),
            ("per_class.png", draw_per_class),
            ("lambda.png", draw_lambda),
        ]
        if has_budgets(comparison):
            draws.append(("budget.png", draw_budget))
        for name, draw in draws:
            with names_as_text():
                problem = draw(comparison, folder / name)
            if problem:
                drawn.missing.append(f"{folder / name}: {problem}")
            else:
                drawn.files.append(folder / name)
    trained = [result for result in results if result.record.stages]  # others have no curve to miss
    without = [result.path for result in trained if not (result.path / METRICS).is_file()]
    for result in trained:
        if result.path not in without:
            drawn.files.append(_draw_training(result, out, alone=len(results) == 1))
    if without:
        of = f"{without[0]}" + (f" and {len(without) - 1} more runs" if len(without) > 1 else "")
        drawn.missing.append(f"training curves of {of}: there is no {METRICS}")
    return drawn


def draw_methods(comparison: ComparableRows, path: Path) -> str | None:
    """OOD accuracy of each row on each target, their average, and ID accuracy. None: nothing is missing."""
    targets = comparison.targets
    groups = [*targets, *(["average"] if len(targets) > 1 else []), "ID"]
    bars: dict[str, list[Mean | None]] = {}
    for row in comparison.rows:
        accuracy = row.by_trial(lambda run: run.ood_accuracy)
        average = [mean_over_targets(accuracy, len(targets))] if len(targets) > 1 else []
        in_domain = mean_over_targets(row.by_trial(lambda run: run.id_accuracy), len(targets))
        bars[row.label] = [*means_of_targets(accuracy, targets), *average, in_domain]
    title = f"{comparison.title}: accuracy on each target domain (OOD), and on the sources (ID)"
    figure = _grouped_bars(
        title + errors_note(comparison), groups, bars, values=len(bars) * len(groups) <= 40
    )
    figure.savefig(path, dpi=130)
    return None


def draw_per_class(comparison: ComparableRows, path: Path) -> str | None:
    """The paper's figure 3: OOD accuracy of each class, methods side by side; what is missing, if it is.

    Mean over the targets that all rows have (within a trial, then over trials).
    """
    common = set.intersection(*({run.target for run in row.results} for row in comparison.rows))
    if not common:
        return "no target domain was measured with every method; plot fewer methods"
    means = {
        row.label: [_class_cell(row, name, common) for name in comparison.classes] for row in comparison.rows
    }
    drawn = [
        place for place in range(len(comparison.classes)) if any(cells[place] for cells in means.values())
    ]
    subset = ""
    if len(drawn) > MOST_CLASSES:
        drawn = sorted(sorted(drawn, key=lambda place: -_spread(means, place))[:MOST_CLASSES])
        subset = f", the {MOST_CLASSES} of {len(comparison.classes)} classes in which methods differ most"
    names = [comparison.classes[place] for place in drawn]
    title = (
        f"{comparison.title}: OOD accuracy per class, mean over target domains "
        f"({', '.join(sorted(common))}){subset}{errors_note(comparison)}"
    )
    bars = {label: [cells[place] for place in drawn] for label, cells in means.items()}
    figure = _grouped_bars(title, names, bars)
    figure.savefig(path, dpi=130)
    return None


def _class_cell(row: Row, name: str, targets: set[str]) -> Mean | None:
    by_trial = row.by_trial(lambda run: run.class_accuracy(name) if run.target in targets else None)
    return mean_over_targets(by_trial, len(targets))


def _spread(means: dict[str, list[Mean | None]], place: int) -> float:
    known = [value.mean for cells in means.values() if (value := cells[place])]
    return max(known) - min(known)


def _grouped_bars(
    title: str, groups: Sequence[str], bars: dict[str, list[Mean | None]], *, values: bool = False
) -> Figure:
    """For each of `groups` a bar of each label, with its standard error.

    A missing value is a cross; a mean over fewer targets or trials has a star.

    values: whether the bars have their numbers
    """
    inches = min(24.0, max(7.0, 2.0 + 0.16 * len(groups) * (len(bars) + 1)))
    figure = Figure(figsize=(inches, 4.8), layout="constrained")
    axes, width = figure.add_subplot(), 0.84 / len(bars)
    for number, ((label, means), (hatch, colour)) in enumerate(zip(bars.items(), LOOKS * 9, strict=False)):
        places = np.arange(float(len(groups))) + (number - (len(bars) - 1) / 2) * width
        look = {"width": width, "color": colour, "hatch": hatch, "label": label}
        _draw_bars(axes, places, means, look, values=values)
    every = [mean for means in bars.values() for mean in means]
    title += "; x: not measured" if None in every else ""
    title += "; *: over fewer targets or trials" if any(mean and mean.mark for mean in every) else ""
    axes.set_title("\n".join(textwrap.wrap(title, int(11 * inches))), fontsize=10)
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set(ylabel="accuracy, %", ylim=(0, 108), xlim=(-0.6, len(groups) - 0.4), yticks=range(0, 101, 20))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the bars: above or below they would be long lines over many rows.
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _draw_bars(
    axes: Axes,
    places: npt.NDArray[np.float64],
    means: Sequence[Mean | None],
    look: dict[str, Any],
    *,
    values: bool,
) -> None:
    """The bars of one label, one in each group."""
    heights = [100 * mean.mean if mean else np.nan for mean in means]
    errors = [100 * mean.se if mean and mean.se is not None else np.nan for mean in means]
    error_look = {"elinewidth": 0.8, "capsize": 1.5}
    drawn = axes.bar(places, heights, yerr=errors, error_kw=error_look, edgecolor="white", lw=0.4, **look)
    stars = ["*" if mean and mean.mark else "" for mean in means]
    numbers = [f"{height:.0f}" if values else "" for height in heights]
    axes.bar_label(drawn, [n + s for n, s in zip(numbers, stars, strict=True)], fontsize=7, padding=1)
    missing = [place for place, mean in zip(places, means, strict=True) if mean is None]
    axes.plot(missing, [1.5] * len(missing), "x", color=look["color"], ms=4)


def _draw_training(result: Result, out: Path, *, alone: bool) -> Path:
    """training.png, or training/METHOD_TARGET_SEED_NAME.png of one of several runs."""
    path = out / "training.png"
    if not alone:
        seed, split_seed = result.seeds
        name = f"{result.method}_{result.target}_{seed}-{split_seed}_{result.record.recipe_sha256[:8]}.png"
        path = out / "training" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_run(result.path, result.record, path)
    return path
