"""One picture: accuracy against cost. OOD filled, ID hollow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl2v_deploy.errors import MissingExtra

COLOURS = {"student": "#0b6e99", "teacher": "#b5482a"}
SIZE_INCHES = (7.2, 4.2)
# Labels closer than this share of the height would lie on each other.
LABEL_GAP = 0.07
# Keeps a label readable where a line runs behind it.
UNDERLAY = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


def plot_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG: x = USD per million images (without prices: latency), log; y = accuracy in percent.

    A model without an x of its own, such as a teacher that was not timed, is a dashed line.

    Raises MissingExtra without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error
    summary: Mapping[str, Mapping[str, Any]] = report["summary"]
    key, x_label = _x_axis(summary)
    # Figure and canvas by hand: pyplot would keep global state and could open a window.
    figure = Figure(figsize=SIZE_INCHES, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes, summary, key)
    rightmost = max((row[key] for row in summary.values() if row[key]), default=None)
    for name, row in summary.items():
        if row[key]:
            alone = sum(bool(other[key]) for other in summary.values()) == 1
            _draw_model(axes, name, row, row[key], to_left=row[key] == rightmost and not alone)
        else:
            _draw_level(axes, name, row)
    target = summary["student"]["ood"]["domain"]
    axes.set_title(
        f"filled: OOD, unseen domain {target}, with 95 % interval\nhollow: ID, mean of the source domains",
        fontsize=8.5,
        loc="left",
    )
    axes.set_xlabel(x_label)
    axes.set_ylabel("accuracy (%)")
    figure.savefig(path, format="png")


def _x_axis(summary: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    if all(row["usd_per_million"] for row in summary.values()):
        return "usd_per_million", "USD per million images (log)"
    timed = [row for row in summary.values() if row["measured"]]
    statistic = "p50" if all(row["p50_ms"] is not None for row in timed) else "mean"
    batch = summary["student"]["latency_batch"]
    return f"{statistic}_ms", f"{statistic} latency, encoded image to label, batch {batch} (ms, log)"


def _frame(axes: Any, summary: Mapping[str, Mapping[str, Any]], key: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    xs = [row[key] for row in summary.values() if row[key]]
    axes.set_xscale("log")
    if xs:
        axes.set_xlim(min(xs) / 2, max(xs) * (2 if len(set(xs)) > 1 else 6))
        # Two decades or less hold too few powers of ten to read a value off.
        steps = (1.0,) if max(xs) > 100 * min(xs) else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    ys = [100 * row["id_accuracy"] for row in summary.values()]
    for row in summary.values():
        ood = row["ood"]
        ys += [100 * ood[end] for end in ("accuracy", "low", "high") if ood[end] is not None]
    margin = max(2.0, 0.12 * (max(ys) - min(ys)))
    axes.set_ylim(min(ys) - margin, max(ys) + margin)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_model(axes: Any, name: str, row: Mapping[str, Any], x: float, *, to_left: bool) -> None:
    colour, ood = COLOURS[name], row["ood"]
    ood_y, id_y = 100 * ood["accuracy"], 100 * row["id_accuracy"]
    axes.plot([x, x], [ood_y, id_y], color=colour, linewidth=0.8, linestyle=":")
    if ood["low"] is not None:
        down, up = ood_y - 100 * ood["low"], 100 * ood["high"] - ood_y
        axes.errorbar([x], [ood_y], yerr=[[down], [up]], color=colour, capsize=3, linewidth=1.2)
    axes.plot([x], [id_y], "o", markersize=9, markerfacecolor="white", markeredgecolor=colour, zorder=3)
    axes.plot([x], [ood_y], "o", markersize=9, color=colour, zorder=4)
    bottom, top = axes.get_ylim()
    for y, shown_y, text in _apart(ood_y, id_y, LABEL_GAP * (top - bottom)):
        axes.annotate(
            f"{name} {text} {y:.1f}",
            (x, shown_y),
            xytext=(-11 if to_left else 11, 0),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="center",
            color=colour,
            bbox=UNDERLAY,
            fontweight="bold" if text == "OOD" else "normal",
        )


def _draw_level(axes: Any, name: str, row: Mapping[str, Any]) -> None:
    y = 100 * row["ood"]["accuracy"]
    axes.axhline(y, color=COLOURS[name], linestyle="--", linewidth=1.2)
    axes.annotate(
        f"{name} OOD {y:.1f} (recorded, not timed)",
        (0.99, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color=COLOURS[name],
        bbox=UNDERLAY,
    )


def _apart(ood_y: float, id_y: float, gap: float) -> list[tuple[float, float, str]]:
    """Value, height of its label, and name, the labels moved apart to `gap` where they are closer."""
    short = max(0.0, gap - abs(ood_y - id_y)) / 2
    sign = 1.0 if ood_y >= id_y else -1.0
    return [(ood_y, ood_y + sign * short, "OOD"), (id_y, id_y - sign * short, "ID")]
