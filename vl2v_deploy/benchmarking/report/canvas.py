"""Paper, axes and ticks of a report's charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vl2v_deploy.benchmarking.report.palette import LIGHT

INK, MUTED, RULE, CARD = LIGHT["ink"], LIGHT["muted"], LIGHT["rule"], LIGHT["card"]


@dataclass(frozen=True)
class Canvas:
    """Room for a drawing in CSS pixels; text keeps its size whatever the width.

    narrow: for a phone: names stand above what they name, fewer ticks
    """

    width_px: int
    height_px: int
    narrow: bool

    def figure(self, height_px: int | None = None) -> tuple[Figure, Axes]:
        """An empty figure with one pair of axes, no frame but the lower line."""
        figure = Figure(
            figsize=(self.width_px / 72, (height_px or self.height_px) / 72), dpi=72, layout="constrained"
        )
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(colors=MUTED, length=0, labelsize=12, pad=6)
        axes.grid(True, color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        return figure, axes


def titles(axes: Axes, below: str, beside: str) -> None:
    """Axis titles; that of the y axis lies above it, where it is read without turning the head."""
    axes.set_xlabel(below, fontsize=12, color=MUTED, labelpad=6)
    if beside:
        axes.set_title(beside, fontsize=12, color=MUTED, loc="left", pad=10, x=0.0)


def plain_log(axis: Any, *, few: bool) -> None:
    """Ticks at 1, 2, 5 (few: 1 and 3) of each decade, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def decades(axis: Any, words: Callable[[float], str]) -> None:
    """Ticks at powers of ten, written by `words`."""
    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))


def count(number: float) -> str:
    """A large number in few characters: 23 k, 1.5 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def short(name: str, most: int = 28) -> str:
    """A name that fits beside a chart."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
