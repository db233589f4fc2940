"""report.html: one self-contained file, which loads nothing from the network."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np

from vl2v_deploy.benchmarking.judge.cost import FORMULAS
from vl2v_deploy.benchmarking.judge.words import NONE, megabytes, ms, percent, rate, upper_first, usd
from vl2v_deploy.benchmarking.report.charts import charts_of
from vl2v_deploy.benchmarking.report.notes import facts, notes
from vl2v_deploy.benchmarking.report.palette import DARK, LIGHT, css_variables
from vl2v_deploy.benchmarking.report.tables import NOT_MLPERF, confusion, grids, latency_ms, latency_statistic
from vl2v_deploy.benchmarking.schema import EngineResult, Report
from vl2v_deploy.errors import MissingExtra

# A matrix of more classes is neither readable nor small; the most confused pairs are shown instead.
MOST_CLASSES_OF_A_MATRIX = 40
MOST_PAIRS = 25
# Paths in a box of 16 by 16.
MARKS = {"yes": "M2.5 8.5l3.6 3.7 7.4-8.4", "no": "M3 3l10 10M13 3L3 13", "unclear": "M3 8h10"}
LIGHT_PAGE = {"ground": "#f5f6f8", "zero": "#f0f2f5", "good": "#00704f", "bad": "#b3261e"}
LIGHT_PAGE |= {"warn-ground": "#fff6dd", "warn-rule": "#dcb95a"}
DARK_PAGE = {"ground": "#12161b", "zero": "#232a32", "good": "#3fcf9f", "bad": "#ff8f85"}
DARK_PAGE |= {"warn-ground": "#2e2712", "warn-rule": "#75611f"}


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
        name: replace(chart, svgs=tuple(Markup(svg) for svg in chart.svgs))
        for name, chart in charts_of(report).items()
    }
    return template.render(
        **_words(report),
        **grids(report),
        charts=charts,
        css=Markup((page / "report.css").read_text(encoding="utf-8")),
        js=Markup((page / "report.js").read_text(encoding="utf-8")),
        light=Markup(css_variables(LIGHT | LIGHT_PAGE)),
        dark=Markup(css_variables(DARK | DARK_PAGE)),
        confusions=_confusions(report),
    )


def _words(report: Report) -> dict[str, Any]:
    measurements = report.measurements
    return {
        "bundle": measurements.bundle,
        "device": measurements.device,
        "day": measurements.created[:10],
        "results": report.results,
        "chosen_share": percent(report.results.cascade.chosen.promised) if report.results.cascade else None,
        "target": measurements.images.target,
        "unavailable": [v for v in report.results.verdicts if v.about == "unavailable"],
        "tiles": _tiles(report),
        "marks": MARKS,
        "engine_names": list(report.results.engines),
        "domain_names": list(measurements.images.domains),
        "notes": notes(report),
        "facts": facts(report),
        "formulas": FORMULAS,
        "not_mlperf": NOT_MLPERF,
    }


def _tiles(report: Report) -> list[dict[str, str]]:
    """The headline's engine in a few large numbers, each with the teacher's."""
    primary, results = report.results.primary, report.results.engines
    if primary is None:
        return []
    teachers = [e.name for e in report.measurements.engines if e.kind == "teacher" and e.name in results]
    other = results[teachers[0]] if teachers else None
    target, statistic = report.measurements.images.target, latency_statistic(report)
    sizes = {engine.name: megabytes(engine.model_bytes) for engine in report.measurements.engines}
    words = report.measurements.target_words
    measured = [
        (
            upper_first(words.accuracy),
            "%",
            lambda r: percent(r.domains[target].accuracy),
        ),
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


def _confusions(report: Report) -> dict[str, Any]:
    """Counts of (class, predicted class) by index of engine and domain; of many classes the top pairs."""
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
