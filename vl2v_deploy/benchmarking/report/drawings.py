"""What each chart shows, drawn with matplotlib; `charts` turns the drawings into files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from vl2v_deploy.benchmarking.report.canvas import (
    CARD,
    INK,
    MUTED,
    Canvas,
    count,
    decades,
    plain_log,
    short,
    titles,
)
from vl2v_deploy.benchmarking.report.labels import UNDERLAY, Label, place_labels
from vl2v_deploy.benchmarking.report.palette import LIGHT, Look, looks
from vl2v_deploy.benchmarking.report.tables import latency_ms, latency_statistic, recorded_teacher, sampled_ms
from vl2v_deploy.benchmarking.schema import Report

TEACHER = LIGHT["s0"]
DECADES_BEYOND = 1.5  # how far cost against volume reaches beyond the break-even points
BAR_PX, GROUP_GAP_PX = 15, 18


def draw_pareto(report: Report, canvas: Canvas) -> Figure:
    """OOD accuracy with its interval against cost (without prices: latency); the front as a line."""
    figure, axes = canvas.figure()
    target, found = report.measurements.images.target, looks(report)
    cost, label = _cost_axis(report)
    points: list[tuple[str, float, float, Look]] = []
    for name, result in report.results.engines.items():
        ood, x, look = result.domains[target], cost(name), found[name]
        y = 100 * ood.accuracy
        errors = [[y - 100 * ood.low], [100 * ood.high - y]]
        axes.errorbar(
            [x], [y], yerr=errors, color=look.colour, marker=look.marker, ms=9, capsize=4, lw=1.6, mec=CARD
        )
        points.append((name, x, y, look))
    points += _api_point(report, axes, label)
    recorded = recorded_teacher(report).get(target)
    if recorded is not None:
        axes.axhline(100 * recorded, color=TEACHER, ls="--", lw=1.6)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3)}
        axes.annotate("teacher, as recorded", (1.0, 100 * recorded), **place, **_ABOVE)
    front = sorted((x, y) for name, x, y, _ in points if _on_front(report, name))
    axes.plot([x for x, _ in front], [y for _, y in front], color=MUTED, lw=1.2, ls=":", zorder=1)
    axes.set_xscale("log")
    xs = [x for _, x, _, _ in points]
    # Left of all points there is room for the name of the cheapest.
    axes.set_xlim(min(xs) / (1.6 * (max(xs) / min(xs)) ** 0.35), max(xs) * 2.2)
    plain_log(axes.xaxis, few=canvas.narrow or max(xs) > 100 * min(xs))
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.08 * (high - low), min(high + 0.08 * (high - low), 103))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    titles(axes, f"{label} (log scale)", f"OOD accuracy on {short(target, 18 if canvas.narrow else 28)}, %")
    bars = [
        (cost(name), 100 * (ood.low + share * (ood.high - ood.low)))
        for name, result in report.results.engines.items()
        for ood in (result.domains[target],)
        for share in np.linspace(0, 1, 30)
    ]
    # Those that the headline is about; many engines lie on one spot, and the legend has them all.
    named = [(name, x, y, look.colour) for name, x, y, look in points if look.name in ("s0", "s1")]
    place_labels(figure, axes, named, bars, over_lines=False)
    return figure


def draw_latency(report: Report, canvas: Canvas) -> Figure:
    """The share of images answered within so many milliseconds, for every engine."""
    figure, axes = canvas.figure()
    for name, look in looks(report).items():
        samples = np.sort(sampled_ms(report, name))
        shares = 100 * np.arange(1, len(samples) + 1) / len(samples)
        # A few hundred steps draw the same line as ten thousand.
        kept = np.unique(np.linspace(0, len(samples) - 1, 300).astype(int))
        axes.step(samples[kept], shares[kept], where="post", color=look.colour, ls=look.dash, lw=2)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    plain_log(axes.xaxis, few=canvas.narrow or high > 60 * low)
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 90, 100]))
    titles(axes, "ms, encoded image to label (log scale)", "images answered, %")
    return figure


def draw_domains(report: Report, canvas: Canvas) -> Figure:
    """Accuracy of every engine in every domain, with intervals; the target last."""
    found, images = looks(report), report.measurements.images
    domains = sorted(images.domains, key=lambda name: (name == images.target, name))
    above = 20 if canvas.narrow else 0
    group = BAR_PX * len(found) + GROUP_GAP_PX + above
    figure, axes = canvas.figure(height_px=group * len(domains) + 60)
    for row, domain in enumerate(domains):
        for number, (name, look) in enumerate(found.items()):
            y = row * group + above + BAR_PX * (number + 0.5)
            accuracy = report.results.engines[name].domains[domain]
            share, low, high = 100 * accuracy.accuracy, 100 * accuracy.low, 100 * accuracy.high
            axes.barh(y, share, height=BAR_PX - 3, color=look.colour)
            axes.plot([low, high], [y, y], color=INK, lw=1.4, solid_capstyle="butt")
            axes.annotate(f"{share:.1f}", (max(high, share), y), xytext=(4, -0.5), **_VALUE)
        title = f"{short(domain)} · {'OOD' if domain == images.target else 'ID'}"
        weight = "bold" if domain == images.target else "normal"
        middle = row * group + above + BAR_PX * len(found) / 2
        if canvas.narrow:
            axes.annotate(
                title, (0, row * group + 12), ha="left", va="center", fontsize=12, color=INK, weight=weight
            )
        else:
            axes.annotate(
                title, (0, middle), xytext=(-8, 0), **_BESIDE, fontsize=12, color=INK, weight=weight
            )
    axes.set_ylim(group * len(domains) - GROUP_GAP_PX / 2, -GROUP_GAP_PX / 2)
    axes.set_xlim(0, 110)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    titles(axes, "accuracy, %, with 95 % interval", "")
    return figure


_VALUE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 11.5, "va": "center", "color": MUTED}
_ABOVE: dict[str, Any] = _VALUE | {"ha": "right", "va": "bottom"}
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center"}


def draw_volume(report: Report, canvas: Canvas) -> Figure | None:
    """Total cost against images, distillation included, with the break-even points; None without prices.

    The axes are logarithmic: what is free is not on them.
    """
    money, primary = report.results.economics, report.results.primary
    mine = report.results.engines[primary].usd_per_million if primary else None
    spent = money.distillation_usd
    ways = [
        ("teacher, API", money.teacher_api_usd_per_million, "--"),
        ("teacher, hosted", money.teacher_hosted_usd_per_million, "-"),
    ]
    ways = [(name, price, dash) for name, price, dash in ways if price]
    if primary is None or mine is None or spent is None or not ways or not spent + mine:
        return None
    evens = [row.inferences for row in money.break_even if row.engine == primary and row.inferences]
    middle = np.log10(evens or [1e6])
    n = np.logspace(min(middle) - DECADES_BEYOND, max(middle) + DECADES_BEYOND, 200)
    figure, axes = canvas.figure()
    ends: list[Label] = []
    lines: list[tuple[float, float]] = []
    for name, price, dash in ways:
        axes.plot(n, n * (price or 0) / 1e6, color=TEACHER, ls=dash, lw=2)
        lines += zip(n, n * (price or 0) / 1e6, strict=True)
        ends.append((name, n[-1], n[-1] * (price or 0) / 1e6, TEACHER))
    look = looks(report)[primary]
    axes.plot(n, spent + n * mine / 1e6, color=look.colour, lw=2)
    lines += zip(n, spent + n * mine / 1e6, strict=True)
    ends.append(("student", n[-1], spent + n[-1] * mine / 1e6, look.colour))
    points = [(f"{count(x)} images", x, spent + x * mine / 1e6, INK) for x in evens]
    for _, x, y, _ in points:
        axes.plot([x], [y], "o", ms=8, color=CARD, mec=INK, mew=2, zorder=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    decades(axes.xaxis, count)
    decades(axes.yaxis, lambda usd_in_all: f"${count(usd_in_all)}")
    # The names of the lines stand behind their ends.
    axes.set_xlim(n[0], n[0] * (n[-1] / n[0]) ** (1.62 if canvas.narrow else 1.36))
    titles(axes, "images labelled (log scale)", "total cost, USD (log scale)")
    place_labels(figure, axes, [*ends, *points], lines, over_lines=True)
    return figure


def draw_sensitivity(report: Report, canvas: Canvas) -> Figure | None:
    """USD per million against utilisation, for every engine that costs something; None without."""
    rows = report.results.economics.sensitivity
    if not any(cost for row in rows for cost in row.usd_per_million.values()):
        return None
    figure, axes = canvas.figure()
    shares = [100 * row.utilisation for row in rows]
    for name, look in looks(report).items():
        costs = [row.usd_per_million[name] for row in rows if name in row.usd_per_million]
        if any(costs):
            axes.plot(shares, costs, color=look.colour, marker=look.marker, ls=look.dash, lw=2, ms=6)
    api = report.results.economics.teacher_api_usd_per_million
    if api:
        axes.axhline(api, color=TEACHER, ls="--", lw=2)
        axes.annotate("teacher, API", (shares[-1], api), xytext=(0, 3), **_ABOVE)
    axes.set_yscale("log")
    plain_log(axes.yaxis, few=True)
    axes.set_xlim(0, 104)
    axes.xaxis.set_major_locator(FixedLocator([5, 25, 50, 75, 100]))
    titles(axes, "utilisation, % of the paid time", "USD per million images (log scale)")
    return figure


def draw_roofline(report: Report, canvas: Canvas) -> Figure | None:
    """Every engine's share of the machine's limit at its fastest setting; None where none has a limit."""
    found = looks(report)
    rows = [
        (name, max(result.roofline, key=lambda share: share.images_per_s))
        for name, result in report.results.engines.items()
        if result.roofline
    ]
    if not rows:
        return None
    figure, axes = canvas.figure(height_px=(BAR_PX + (26 if canvas.narrow else 9)) * len(rows) + 60)
    for y, (name, share) in enumerate(rows):
        axes.barh(y, 100 * share.share, height=0.4 if canvas.narrow else 0.64, color=found[name].colour)
        axes.annotate(f"{100 * share.share:.0f}", (100 * share.share, y), xytext=(4, -0.5), **_VALUE)
        threads = f"{share.threads} thread{'s' if share.threads > 1 else ''}"
        title = f"{name} · batch {share.batch} · {threads} · {share.bound_by}"
        if canvas.narrow:
            place: dict[str, Any] = {"ha": "left", "va": "center", "bbox": UNDERLAY, "zorder": 6}
            axes.annotate(title, (0, y - 0.42), **place, fontsize=11.5, color=INK)
        else:
            axes.annotate(title, (0, y), xytext=(-8, 0), **_BESIDE, fontsize=12, color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.set_xlim(0, 1.12 * max(100.0, *(100 * share.share for _, share in rows)))
    axes.yaxis.set_major_locator(NullLocator())
    axes.axvline(100, color=INK, lw=1.2, ls="--")
    titles(axes, "images/s of the session, % of the limit", "")
    return figure


def add_legend(figure: Figure, report: Report) -> None:
    """Names of all engines below a figure, for where no page has them beside it."""
    keys = [
        Line2D([], [], color=look.colour, marker=look.marker, lw=1.6, ms=8, label=name)
        for name, look in looks(report).items()
    ]
    figure.legend(
        handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, frameon=False, labelcolor=INK
    )


def _cost_axis(report: Report) -> tuple[Callable[[str], float], str]:
    """An engine's place on the axis, and what the axis is called."""
    results = report.results.engines
    prices = {name: result.usd_per_million for name, result in results.items()}
    if all(price for price in prices.values()):
        return (lambda name: prices[name] or 0.0), "USD per million images"
    statistic = latency_statistic(report)
    return (lambda name: latency_ms(results[name], statistic) or 0.0), f"{statistic} latency, ms"


def _api_point(report: Report, axes: Axes, label: str) -> list[tuple[str, float, float, Look]]:
    """The teacher once more, at its API's price: the same accuracy, another cost."""
    api = report.results.economics.teacher_api_usd_per_million
    found = {name: look for name, look in looks(report).items() if look.name == "s0"}
    if not api or not found or not label.startswith("USD"):
        return []
    name, look = next(iter(found.items()))
    y = 100 * report.results.engines[name].domains[report.measurements.images.target].accuracy
    axes.plot([api], [y], marker=look.marker, ms=9, color=CARD, mec=look.colour, mew=1.8, ls="")
    return [("teacher (API)", api, y, look)]


def _on_front(report: Report, name: str) -> bool:
    return name in report.results.engines and report.results.engines[name].pareto
