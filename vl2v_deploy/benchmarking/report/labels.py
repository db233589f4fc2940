"""Names beside points, placed so that none lies on another."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from vl2v_deploy.benchmarking.report.palette import LIGHT

Label = tuple[str, float, float, str]  # text, x, y, colour
SIZE_PX = 12
# Where a name may stand, as (horizontal, vertical) steps from its point; farther off it would name another.
PLACES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1.2), (0, -1.2))
# Keeps a name readable where a line runs behind it all the same.
UNDERLAY = {"boxstyle": "square,pad=0.12", "facecolor": LIGHT["card"], "edgecolor": "none", "alpha": 0.86}


def place_labels(
    figure: Figure,
    axes: Axes,
    labels: Sequence[Label],
    lines: Sequence[tuple[float, float]],
    *,
    over_lines: bool,
) -> None:
    """Write each text near its point: clear of all points, other texts and lines.

    A text for which there is no room is left out: the legend or the table beside the chart has it.

    lines:      points along what is better not written over, in data coordinates
    over_lines: rather than leave a text out, write it over a line
    """
    figure.draw_without_rendering()  # from here on the axes know where they are
    figure.set_layout_engine("none")
    inside = axes.get_window_extent()
    spots = [axes.transData.transform((x, y)) for _, x, y, _ in labels]
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in spots]
    along = axes.transData.transform(lines).tolist()
    avoided = [Bbox.from_bounds(x - 2, y - 2, 4, 4) for x, y in along]
    for label in labels:
        for obstacles in (taken + avoided, taken) if over_lines else (taken + avoided,):
            box = _write(axes, label, inside, obstacles)
            if box is not None:
                taken.append(box)
                break


def _write(axes: Axes, label: Label, inside: Bbox, obstacles: Sequence[Bbox]) -> Bbox | None:
    """Where the text came to stand; None where every place is taken."""
    text, x, y, colour = label
    for side, step in PLACES:
        written: Annotation = axes.annotate(
            text,
            (x, y),
            xytext=(11 * side, step * (SIZE_PX + 3)),
            textcoords="offset points",
            ha={1: "left", -1: "right", 0: "center"}[side],
            va="center",
            fontsize=SIZE_PX,
            color=colour,
            bbox=UNDERLAY,
            zorder=6,
        )
        box = written.get_window_extent().padded(1)
        within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if within and not box.count_overlaps(obstacles):
            return box
        written.remove()
    return None
