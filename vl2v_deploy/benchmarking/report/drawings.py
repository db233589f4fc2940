"""What each chart shows, drawn with matplotlib as wide as asked; text keeps its size whatever the width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from vl2v_deploy.benchmarking.report.palette import DASHES, LIGHT, looks
from vl2v_deploy.benchmarking.report.tables import (
    latency_ms,
    latency_statistic,
    recorded_teacher,
    sampled_ms,
    untimed_teacher,
)
from vl2v_deploy.benchmarking.report.ticks import log_label, log_ticks
from vl2v_deploy.benchmarking.schema import CascadeAccuracy, Report

INK, MUTED, RULE, CARD, TEACHER = (LIGHT[name] for name in ("ink", "muted", "rule", "card", "s0"))
NARROW_PX = 400  # a phone: fewer ticks, the legend in one column
DECADES_BEYOND = 1.5  # how far cost against volume reaches beyond the break-even points
BESIDE_PX = 60  # beside an axis: labels of the other, margins
BAR_PX, GROUP_GAP_PX, LEGEND_PX, TEXT_PX = 15, 18, 19, 12


def draw_pareto(report: Report, width_px: int) -> Figure:
    """OOD accuracy with its interval against cost (without prices: latency); the front as a line."""
    found, target = looks(report), report.measurements.images.target
    figure, axes = _figure(width_px, entries=len(found) + 2)
    cost, label = _cost_axis(report)
    places: dict[str, tuple[float, float]] = {}
    for name, result in report.results.engines.items():
        ood, look = result.domains[target], found[name]
        places[name] = x, y = cost(name), 100 * ood.accuracy
        errors = [[y - 100 * ood.low], [100 * ood.high - y]]
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "ms": 9, "mec": CARD}
        axes.errorbar([x], [y], yerr=errors, capsize=4, lw=1.6, label=name, **style)
    _draw_teachers(report, axes, places, in_usd=label.startswith("USD"))
    front = sorted(places[name] for name in found if report.results.engines[name].pareto)
    axes.plot([x for x, _ in front], [y for _, y in front], color=MUTED, lw=1.2, ls=":", zorder=1)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    _plain_log(axes, width_px)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.08 * (high - low), min(high + 0.08 * (high - low), 103))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    is_narrow, words = width_px < NARROW_PX, report.measurements.target_words
    name = _short(target, 18 if is_narrow else 28)
    title = f"{f'{words.accuracy} on {name}' if is_narrow else words.on(name)}, %"
    return _finished(figure, axes, f"{label} (log scale)", title)


def draw_latency(report: Report, width_px: int) -> Figure:
    """The share of images answered within a time, for every engine."""
    found = looks(report)
    figure, axes = _figure(width_px, entries=len(found))
    for name, look in found.items():
        samples = np.sort(sampled_ms(report, name))
        shares = 100 * np.arange(1, len(samples) + 1) / len(samples)
        # A few hundred steps draw the same line as ten thousand.
        kept = np.unique(np.linspace(0, len(samples) - 1, 300).astype(int))
        style: dict[str, Any] = {"color": look.colour, "ls": look.dash, "lw": 2, "label": name}
        axes.step(samples[kept], shares[kept], where="post", **style)
    axes.set_xscale("log")
    _plain_log(axes, width_px)
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 90, 100]))
    return _finished(figure, axes, "ms, encoded image to label (log scale)", "images answered, %")


def draw_domains(report: Report, width_px: int) -> Figure:
    """Accuracy of every engine in every domain, with intervals; the target last."""
    found, images, words = looks(report), report.measurements.images, report.measurements.target_words
    domains = sorted(images.domains, key=lambda name: (name == images.target, name))
    group = BAR_PX * len(found) + GROUP_GAP_PX + 20
    figure, axes = _figure(width_px, entries=len(found), height_px=group * len(domains) + 60)
    for row, domain in enumerate(domains):
        is_target = domain == images.target
        name_place = (0, row * group + 12)  # above its bars
        weight = "bold" if is_target else "normal"
        axes.annotate(
            f"{_short(domain)} · {words.short if is_target else 'ID'}", name_place, weight=weight, **_NAME
        )
        for number, (name, look) in enumerate(found.items()):
            y = row * group + 20 + BAR_PX * (number + 0.5)
            accuracy = report.results.engines[name].domains[domain]
            share, low, high = 100 * accuracy.accuracy, 100 * accuracy.low, 100 * accuracy.high
            label = name if row == 0 else None
            axes.barh(y, share, height=BAR_PX - 3, color=look.colour, label=label)
            axes.plot([low, high], [y, y], color=INK, lw=1.4, solid_capstyle="butt")
            axes.annotate(f"{share:.1f}", (max(high, share), y), xytext=(4, -0.5), **_VALUE)
    axes.set_ylim(group * len(domains) - GROUP_GAP_PX / 2, -GROUP_GAP_PX / 2)
    axes.set_xlim(0, 110)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    return _finished(figure, axes, "accuracy, %, with 95 % interval", "")


_VALUE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 11.5, "va": "center", "color": MUTED}
_NAME: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": TEXT_PX, "color": INK}


def draw_volume(report: Report, width_px: int) -> Figure | None:
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
    evens = sorted(row.inferences for row in money.break_even if row.engine == primary and row.inferences)
    middle = np.log10(evens or [1e6])
    n = np.logspace(min(middle) - DECADES_BEYOND, max(middle) + DECADES_BEYOND, 200)
    figure, axes = _figure(width_px, entries=len(ways) + 2)
    for name, price, dash in ways:
        axes.plot(n, n * (price or 0) / 1e6, color=TEACHER, ls=dash, lw=2, label=name)
    axes.plot(
        n, spent + n * mine / 1e6, color=looks(report)[primary].colour, lw=2, label=f"student, {primary}"
    )
    if evens:
        costs = [spent + images * mine / 1e6 for images in evens]
        label = f"break-even: {' and '.join(_count(images) for images in evens)} images"
        axes.plot(evens, costs, "o", ms=8, color=CARD, mec=INK, mew=2, zorder=5, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, words in ((axes.xaxis, _count), (axes.yaxis, lambda usd: f"${_count(usd)}")):
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _, words=words: words(value)))
    return _finished(figure, axes, "images labelled (log scale)", "total cost, USD (log scale)")


def draw_cascade(report: Report, width_px: int) -> Figure | None:
    """Accuracy of the cascade against what it costs, without prices against the share that is sent; student
    alone and teacher alone at its ends. None without a cascade.
    """
    result, target = report.results.cascade, report.measurements.images.target
    if result is None:
        return None
    words = report.measurements.target_words
    figure, axes = _figure(width_px, entries=5)
    in_usd = all(point.in_domain.usd_per_million is not None for point in result.points)

    def place(one: CascadeAccuracy) -> float:
        return (one.usd_per_million or 0.0) if in_usd else 100 * one.share

    sources = [name for name in result.domains if name != target]
    for name, colour, domains in ((words.short, "s1", [target]), ("ID, mean", "s4", sources)):
        of_line = [
            point.domains[target] if name == words.short else point.in_domain
            for point in (result.chosen, *result.points)
        ]
        found, label = sorted(of_line, key=lambda one: one.share), name == words.short
        x = [place(one) for one in found]
        low, high = ([100 * getattr(one, end) for one in found] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=LIGHT[colour], alpha=0.16, lw=0)
        hits = [100 * one.accuracy for one in found]
        axes.plot(x, hits, color=LIGHT[colour], lw=2, label=f"cascade, {name}")
        style: dict[str, Any] = {"ms": 8, "mec": CARD, "ls": ""}
        student = "student alone" if label else None
        axes.plot(x[:1], hits[:1], "o", color=LIGHT[colour], label=student, **style)
        end = [result.teacher_usd_per_million or 0.0] if in_usd else [100.0]
        teachers = 100 * float(np.mean([result.domains[domain].teacher for domain in domains]))
        axes.plot(end, [teachers], "s", color=TEACHER, label="teacher alone" if label else None, **style)
        ring = "chosen threshold" if label else None
        axes.plot([place(of_line[0])], [100 * of_line[0].accuracy], label=ring, **_RING)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5 if width_px < NARROW_PX else 7))
    below = "USD per million images" if in_usd else "images sent to the teacher, %"
    is_what = "OOD is {}" if words.is_unseen else f"{{}}: {words.role}"
    return _finished(figure, axes, below, f"accuracy, %; {is_what.format(_short(target, 18))}")


def draw_cascade_domains(report: Report, width_px: int) -> Figure | None:
    """Accuracy of the cascade in each domain against the share that is sent; None without a cascade."""
    result, target = report.results.cascade, report.measurements.images.target
    if result is None:
        return None
    names = sorted(result.domains, key=lambda name: (name != target, name))
    short = report.measurements.target_words.short
    figure, axes = _figure(width_px, entries=len(names))
    for number, name in enumerate(names):
        look = f"s{1 + number % 7}"
        points = (result.chosen, *result.points)
        found = sorted((point.domains[name] for point in points), key=lambda one: one.share)
        shares, hits = ([100 * getattr(one, what) for one in found] for what in ("share", "accuracy"))
        label = f"{_short(name, 22)} · {short if name == target else 'ID'}"
        style: dict[str, Any] = {"color": LIGHT[look], "ls": DASHES[1 + number % 7], "label": label}
        axes.plot(shares, hits, lw=2.6 if name == target else 1.6, **style)
        chosen = result.chosen.domains[name]
        axes.plot([100 * chosen.share], [100 * chosen.accuracy], **_RING)
    axes.set_xlim(-2, 102)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_locator(FixedLocator([0, 20, 40, 60, 80, 100]))
    return _finished(figure, axes, "images sent to the teacher, %", "accuracy, %")


_RING: dict[str, Any] = {
    "marker": "o",
    "ms": 9,
    "color": "none",
    "mec": INK,
    "mew": 1.8,
    "ls": "",
    "zorder": 6,
}


def _draw_teachers(
    report: Report, axes: Axes, places: dict[str, tuple[float, float]], *, in_usd: bool
) -> None:
    """The teacher at the price of its API, with the same accuracy; a line where it has no time."""
    api = report.results.economics.teacher_api_usd_per_million
    teachers = [engine.name for engine in report.measurements.engines if engine.kind == "teacher"]
    if api and in_usd and teachers and teachers[0] in places:
        style: dict[str, Any] = {
            "color": CARD,
            "mec": TEACHER,
            "mew": 1.8,
            "ls": "",
            "label": "teacher (API)",
        }
        axes.plot([api], [places[teachers[0]][1]], marker=looks(report)[teachers[0]].marker, ms=9, **style)
    target = report.measurements.images.target
    for label, known in (("not timed", untimed_teacher(report)), ("as recorded", recorded_teacher(report))):
        if target in known:
            axes.axhline(100 * known[target], color=TEACHER, ls="--", lw=1.6, label=f"teacher, {label}")


def _cost_axis(report: Report) -> tuple[Callable[[str], float], str]:
    """An engine's place on the axis, and the title of the axis."""
    results = report.results.engines
    if all(result.usd_per_million for result in results.values()):
        return (lambda name: results[name].usd_per_million or 0.0), "USD per million images"
    statistic = latency_statistic(report)
    return (lambda name: latency_ms(results[name], statistic) or 0.0), f"{statistic} latency, ms"


def _figure(width_px: int, entries: int, height_px: int | None = None) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, no frame but the lower line, and room for a legend."""
    height_px = height_px or (300 if width_px < NARROW_PX else 330)
    height_px += LEGEND_PX * -(-entries // _legend_columns(width_px)) + 10
    figure = Figure(figsize=(width_px / 72, height_px / 72), dpi=72, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, length=0, labelsize=TEXT_PX, pad=6)
    axes.grid(True, color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def _finished(figure: Figure, axes: Axes, below: str, above: str) -> Figure:
    """Axis titles, that of the y axis above it, and the legend under the axes."""
    axes.set_xlabel(below, fontsize=TEXT_PX, color=MUTED, labelpad=6)
    if above:
        axes.set_title(above, fontsize=TEXT_PX, color=MUTED, loc="left", pad=10, x=0.0)
    handles, labels = axes.get_legend_handles_labels()
    columns = _legend_columns(round(72 * figure.get_figwidth()))
    style: dict[str, Any] = {"frameon": False, "fontsize": TEXT_PX, "labelcolor": INK, "ncols": columns}
    figure.legend(handles, [_short(label, 40) for label in labels], loc="outside lower left", **style)
    return figure


def _legend_columns(width_px: int) -> int:
    return max(1, width_px // 220)


def _plain_log(axes: Axes, width_px: int) -> None:
    """Round plain numbers on the x axis, as many as have room."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high, width_px - BESIDE_PX, TEXT_PX)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: log_label(value)))


def _count(number: float) -> str:
    """A large number in few characters: 23 k, 1.5 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
