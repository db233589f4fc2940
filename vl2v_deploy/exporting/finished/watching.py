"""`vl2v-deploy monitor`: logged predictions judged by a Monitor, in words and as a figure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.monitor.drift import Drift
from vl2v_deploy.client.monitor.monitor import Monitor
from vl2v_deploy.client.monitor.watched import Statistic
from vl2v_deploy.errors import DataError
from vl2v_deploy.escapes import names_as_text
from vl2v_deploy.exporting.finished.logged import Logged

POINTS = 400  # at which the figure shows the evidence
MOST_NAMED = 12
FIGURES = (".png", ".svg")
# Okabe and Ito's palette, distinct with any kind of colour blindness.
BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#8b949e"


@dataclass(frozen=True)
class Course:
    """What a Monitor says of a log.

    drift:    after the last prediction
    images:   (P,) after which the evidence was noted
    evidence: (P,) as Drift.evidence
    needed:   (P,) for an alarm
    """

    drift: Drift
    images: tuple[int, ...]
    evidence: tuple[float, ...]
    needed: tuple[float, ...]


def judge_log(bundle: Bundle, logged: Logged, *, window: int, alpha: float) -> Course:
    """The log through a Monitor, in its order; arguments and errors as of Monitor."""
    monitor = Monitor(bundle, precision=logged.precision, window=window, alpha=alpha)
    ends = np.unique(np.linspace(0, len(logged.index), POINTS + 1).astype(int))
    noted = []
    for start, end in pairwise(ends.tolist()):
        rows = slice(start, end)
        monitor.observe_answers(
            logged.index[rows],
            logged.probability[rows],
            logged.abstained[rows],
            None if logged.embeddings is None else logged.embeddings[rows],
        )
        drift = monitor.drift()
        noted.append((drift.images, drift.evidence, drift.needed))
    images, evidence, needed = zip(*noted, strict=True)
    return Course(monitor.drift(), images, evidence, needed)


def words_of(course: Course, logged: Logged) -> list[str]:
    """The verdict, then each statistic with its distance, the largest first."""
    drift = course.drift
    lines = [str(drift)]
    if logged.errors:
        lines.append(f"{logged.errors} lines hold an error in place of an answer")
    if logged.embeddings is None:
        lines.append(
            "the log has no embeddings, in which drift shows soonest: predict --json --embeddings writes them"
        )
    lines.append(f"last {drift.in_window} predictions against source validation:")
    for one in _farthest(drift):
        lines.append(
            f"  {one.name}: {one.reference:.3g} then, {one.window:.3g} now; distance {one.distance:.2f}, "
            f"evidence {one.evidence:.3g}"
        )
    return lines


@names_as_text()
def plot_course(course: Course, path: Path, title: str) -> None:
    """Draw the evidence over the images, and how far each statistic of the last window is.

    Raises DataError for a path that ends in neither .png nor .svg.
    """
    if path.suffix.lower() not in FIGURES:
        raise DataError(f"{path}: expected a figure whose name ends in {' or '.join(FIGURES)}")
    figure = Figure(figsize=(9.0, 6.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    above, below = figure.subplots(2, 1)
    _plot_evidence(above, course)
    _plot_distances(below, course.drift)
    figure.savefig(path, dpi=120)


def _plot_evidence(axes: Axes, course: Course) -> None:
    axes.plot(course.images, course.evidence, color=BLUE, label="evidence of drift")
    axes.plot(course.images, course.needed, color=GREY, linestyle="--", label="needed for an alarm")
    if alarm := course.drift.alarm:
        axes.axvline(alarm.at, color=ORANGE, label=f"alarm at {alarm.at}: {alarm.statistic}")
        axes.axvline(alarm.since, color=ORANGE, linestyle=":", label=f"since about {alarm.since}")
    axes.set_yscale("log")
    axes.set_xlabel("images")
    axes.legend(fontsize=8)


def _plot_distances(axes: Axes, drift: Drift) -> None:
    farthest = _farthest(drift)[::-1]
    axes.barh([one.name for one in farthest], [one.distance for one in farthest], color=BLUE)
    for row, one in enumerate(farthest):
        axes.text(one.distance, row, f" {one.reference:.3g} \u2192 {one.window:.3g}", va="center", fontsize=8)
    axes.margins(x=0.2)
    axes.set_xlabel(f"distance from source validation, last {drift.in_window} images; mean then \u2192 now")


def _farthest(drift: Drift) -> list[Statistic]:
    seen = [one for one in drift.statistics if one.window is not None]
    return sorted(seen, key=lambda one: -one.distance)[:MOST_NAMED]
