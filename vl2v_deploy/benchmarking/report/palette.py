"""Colours and markers of a report: one of each per engine, the same in every chart, light and dark.

Charts are drawn in the light colours; in report.html each becomes a CSS variable of the same name, so that
they follow the reader's scheme. The hues are those of Okabe and Ito, which the colour-blind can tell apart,
darkened (or, on dark, lightened) to a contrast of 3 to 1; marker and dash repeat the distinction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vl2v_deploy.benchmarking.schema import Report

LIGHT = {
    "ink": "#1a2027",
    "muted": "#57606b",
    "rule": "#d5dae0",
    "card": "#fffffe",  # not plain white, which matplotlib writes elsewhere too
    "s0": "#c74f00",
    "s1": "#0069a6",
    "s2": "#00825f",
    "s3": "#a8467f",
    "s4": "#8f6800",
    "s5": "#3a86b8",
    "s6": "#5c5fa8",
    "s7": "#6d7680",
}
DARK = {
    "ink": "#e8ecf0",
    "muted": "#a7b0ba",
    "rule": "#39424c",
    "card": "#1b2128",
    "s0": "#ff8a4a",
    "s1": "#55b2ea",
    "s2": "#2ac08f",
    "s3": "#e592bf",
    "s4": "#dcae3a",
    "s5": "#9cd6f8",
    "s6": "#a5a8ee",
    "s7": "#aab3bd",
}
MARKERS = ("s", "o", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


class Look(NamedTuple):
    """How an engine is drawn; `name` is the colour's, such as s1."""

    name: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


def looks(report: Report) -> dict[str, Look]:
    """The look of every measured engine; those of the teacher and of the headline's engine never change.

    With more engines than colours the last ones share theirs.
    """
    primary = report.results.primary
    teachers = {engine.name for engine in report.measurements.engines if engine.kind == "teacher"}
    others = [name for name in report.results.engines if name != primary and name not in teachers]
    order = {name: 2 + number % (len(MARKERS) - 2) for number, name in enumerate(others)}
    order |= dict.fromkeys(teachers, 0)
    if primary is not None:
        order[primary] = 1
    return {
        name: Look(f"s{n}", LIGHT[f"s{n}"], MARKERS[n], DASHES[n])
        for name in report.results.engines
        for n in (order[name],)
    }


def css_variables(colours: Mapping[str, str]) -> str:
    """The colours as declarations of custom properties of CSS.

    >>> css_variables({"ink": "#000", "paper": "#fff"})
    '--ink: #000; --paper: #fff;'
    """
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
