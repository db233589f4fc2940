"""report.html: one file with everything in it, which asks no network for anything."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np

from vl2v_deploy.benchmarking.judge.cost import FORMULAS
from vl2v_deploy.benchmarking.judge.words import NONE, megabytes, ms, percent, rate, usd
from vl2v_deploy.benchmarking.report.charts import charts_of
from vl2v_deploy.benchmarking.report.notes import facts, notes
from vl2v_deploy.benchmarking.report.palette import DARK, LIGHT, Look, looks
from vl2v_deploy.benchmarking.report.tables import (
    NOT_MLPERF,
    Grid,
    class_grid,
    confused_grid,
    confusion,
    cost_grid,
    domain_grid,
    latency_ms,
    latency_statistic,
    mlperf_grid,
    process_grid,
    quality_grid,
    roofline_grid,
    sensitivity_grid,
    summary_grid,
    timing_grid,
)
from vl2v_deploy.benchmarking.schema import EngineResult, Report
from vl2v_deploy.errors import MissingExtra

# Of more classes a matrix is neither readable nor small; the most confused pairs say what it would.
MOST_CLASSES_OF_A_MATRIX = 40
MOST_PAIRS = 25
LIGHT_PAGE = {"ground": "#f5f6f8", "zero": "#f0f2f5", "good": "#00704f", "bad": "#b3261e"}
LIGHT_PAGE |= {"warn-ground": "#fff6dd", "warn-rule": "#dcb95a"}
DARK_PAGE = {"ground": "#12161b", "zero": "#232a32", "good": "#3fcf9f", "bad": "#ff8f85"}
DARK_PAGE |= {"warn-ground": "#2e2712", "warn-rule": "#75611f"}
# The legend's markers in a box of 26 by 12, as matplotlib draws them.
SHAPES = {
    "s": "M9 2h8v8h-8z",
    "o": "M8.5 6a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "^": "M13 1l5 9.5h-10z",
    "D": "M13 .5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "v": "M13 11l5 -9.5h-10z",
    "P": "M11.5 1h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    "X": "M10 1l3 3l3 -3l2 2l-3 3l3 3l-2 2l-3 -3l-3 3l-2 -2l3 -3l-3 -3z",
    "p": "M13 1l5 3.7l-1.9 6h-6.2l-1.9 -6z",
}


def html_from_report(report: Report) -> str:
    """The whole page.

    Raises MissingExtra without jinja2 or matplotlib.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtra("jinja2", "train") from error
    page = files("vl2v_deploy.benchmarking.report") / "page"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((page / "report.html.j2").read_text(encoding="utf-8"))
    charts = {
        name: chart._asdict()
        | {
            "wide_svg": Markup(_classed(chart.svgs[0], "wide")),
            "narrow_svg": Markup(_classed(chart.svgs[1], "narrow")),
        }
        for name, chart in charts_of(report).items()
    }
    return template.render(
        **_words(report),
        **_grids(report),
        charts=charts,
        css=Markup((page / "report.css").read_text(encoding="utf-8")),
        js=Markup((page / "report.js").read_text(encoding="utf-8")),
        light=Markup(_variables(LIGHT | LIGHT_PAGE)),
        dark=Markup(_variables(DARK | DARK_PAGE)),
        confusions=_confusions(report),
    )


def _words(report: Report) -> dict[str, Any]:
    measurements = report.measurements
    return {
        "bundle": measurements.bundle,
        "device": measurements.device,
        "day": measurements.created[:10],
        "results": report.results,
        "target": measurements.images.target,
        "unavailable": [v for v in report.results.verdicts if v.about == "unavailable"],
        "tiles": _tiles(report),
        "legend_items": _legend(report),
        "engine_names": list(report.results.engines),
        "domain_names": list(measurements.images.domains),
        "notes": notes(report),
        "facts": facts(report),
        "formulas": FORMULAS,
        "not_mlperf": NOT_MLPERF,
    }


def _grids(report: Report) -> dict[str, Grid]:
    primary, target = report.results.primary, report.measurements.images.target
    return {
        "summary": summary_grid(report),
        "domains": domain_grid(report),
        "quality": quality_grid(report),
        "timings": timing_grid(report),
        "processes": process_grid(report),
        "mlperf": mlperf_grid(report),
        "rooflines": roofline_grid(report),
        "cost": cost_grid(report),
        "sensitivity": sensitivity_grid(report),
        "by_class": class_grid(report),
        "confused": confused_grid(report, primary, target) if primary else Grid(()),
    }


def _tiles(report: Report) -> list[dict[str, str]]:
    """The headline's engine in a few large numbers, the teacher's beside each."""
    primary, results = report.results.primary, report.results.engines
    if primary is None:
        return []
    teachers = [e.name for e in report.measurements.engines if e.kind == "teacher" and e.name in results]
    other = results[teachers[0]] if teachers else None
    target, statistic = report.measurements.images.target, latency_statistic(report)
    sizes = {engine.name: megabytes(engine.model_bytes) for engine in report.measurements.engines}
    measured = [
        ("OOD accuracy", "%", lambda r: percent(r.domains[target].accuracy)),
        (
            f"{statistic} latency, batch {results[primary].latency.batch}",
            "ms",
            lambda r: ms(latency_ms(r, statistic)),
        ),
        ("Throughput", "images/s", lambda r: rate(r.best.images_per_s)),
        ("Per million images", "USD", lambda r: usd(r.usd_per_million)),
    ]
    tiles = [_tile(label, unit, show, results[primary], other) for label, unit, show in measured]
    beside = _beside(sizes[teachers[0]]) if teachers else ""
    tiles.append({"label": "Model", "value": sizes[primary], "unit": "MB", "beside": beside})
    return [tile for tile in tiles if tile["value"] != NONE]


def _tile(label: str, unit: str, show: Any, mine: EngineResult, other: EngineResult | None) -> dict[str, str]:
    beside = _beside(show(other)) if other is not None else ""
    return {"label": label, "value": show(mine), "unit": unit, "beside": beside}


def _beside(teachers: str) -> str:
    return "" if teachers == NONE else f"teacher {teachers}"


def _legend(report: Report) -> list[dict[str, Any]]:
    return [
        {"name": name, "look": look, "shape": SHAPES[look.marker], "dash": _dasharray(look)}
        for name, look in looks(report).items()
    ]


def _dasharray(look: Look) -> str:
    named = {"-": "", "--": "7 3", "-.": "8 3 2 3", ":": "2 3"}
    return (
        named[look.dash] if isinstance(look.dash, str) else " ".join(str(2 * part) for part in look.dash[1])
    )


def _confusions(report: Report) -> dict[str, Any]:
    """Counts of (class, predicted class) by number of engine and domain; of many classes the top pairs."""
    classes, images = report.measurements.bundle.classes, report.measurements.images
    matrix = len(classes) <= MOST_CLASSES_OF_A_MATRIX
    counts: dict[str, Any] = {"totals": []}
    for shown in images.domains.values():
        counts["totals"].append(np.bincount(shown.labels, minlength=len(classes)).tolist())
    for number, engine in enumerate(report.results.engines):
        rows = []
        for domain in images.domains:
            triples = [[*pair, n] for pair, n in confusion(report, engine, domain).items()]
            if not matrix:
                wrong = [triple for triple in triples if triple[0] != triple[1]]
                triples = sorted(wrong, key=lambda triple: -triple[2])[:MOST_PAIRS]
            rows.append(triples)
        counts[str(number)] = rows
    return {"classes": classes, "matrix": matrix, "counts": counts}


def _classed(svg: str, version: str) -> str:
    return svg.replace("<svg ", f'<svg class="chart {version}" ', 1)


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
