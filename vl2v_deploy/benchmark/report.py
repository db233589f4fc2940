"""From accuracies and raw samples to one report: rows, costs, and a verdict with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vl2v_deploy.benchmark.accuracy import DomainAccuracy, in_domain, out_of_domain
from vl2v_deploy.benchmark.cost import api_usd_per_million, break_even_inferences, usd_per_million
from vl2v_deploy.benchmark.options import BenchmarkOptions
from vl2v_deploy.benchmark.rounds import Measurement
from vl2v_deploy.benchmark.statistics import PERCENTILES, images_per_s, percentile_ms
from vl2v_deploy.benchmark.worker import BYTES_TO_LABEL

SCHEMA = 1
LATENCIES = ("mean_ms", *(f"p{p}_ms" for p in PERCENTILES))
Accuracies = Mapping[str, DomainAccuracy]


def build_results(
    accuracies: Mapping[str, Accuracies],
    measurements: Mapping[str, Measurement],
    options: BenchmarkOptions,
    recorded: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The measured half of report.json: summary, verdict, break-even, accuracy, engines with raw samples.

    accuracies:   by model ('student', 'teacher'), then by domain
    measurements: by model
    recorded:     the manifest's accuracy; its teacher stands in for one that was not measured
    """
    engines = {name: _engine(measurement) for name, measurement in measurements.items()}
    summary = {name: _measured_row(name, accuracies[name], engines[name], options) for name in engines}
    if "teacher" not in summary and recorded and recorded.get("teacher"):
        summary["teacher"] = _recorded_row(recorded, options)
    return {
        "summary": summary,
        "verdict": verdict(summary),
        "break_even_inferences": _break_even(summary, options),
        "accuracy": {
            name: {domain: asdict(accuracy) for domain, accuracy in by_domain.items()}
            for name, by_domain in accuracies.items()
        },
        "recorded_accuracy": recorded,
        "engines": engines,
    }


def verdict(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """What is lost and what is saved, in a sentence with its numbers; ratios are of this run."""
    student = summary["student"]
    points = _points(student["ood"]["accuracy"])
    interval = f"95 % interval {_points(student['ood']['low'])} to {_points(student['ood']['high'])}"
    domain = student["ood"]["domain"]
    if "teacher" not in summary:
        return f"The student has {points} points of OOD accuracy on {domain!r} ({interval})."
    teacher = summary["teacher"]
    theirs = _points(teacher["ood"]["accuracy"])
    whose = "the teacher's" if teacher["measured"] else "the teacher's recorded"
    if student["ood"]["accuracy"] <= teacher["ood"]["accuracy"]:
        kept = f"keeps {points} ({interval}) of {whose} {theirs} points of OOD accuracy on {domain!r}"
    else:
        # Not better before its whole interval is.
        level = "level with" if student["ood"]["low"] <= teacher["ood"]["accuracy"] else "above"
        kept = f"has {points} points ({interval}) of OOD accuracy on {domain!r}, {level} {whose} {theirs},"
    saving = _saving(student, teacher)
    return f"The student {kept} and {saving}." if saving else f"The student {kept.rstrip(',')}."


def _saving(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str | None:
    mine, theirs = student["usd_per_million"], teacher["usd_per_million"]
    if mine and theirs:
        detail = f"(${usd(mine)} against ${usd(theirs)} per million images)"
        if mine <= theirs:
            return f"costs 1/{theirs / mine:.3g} as much {detail}"
        return f"costs {mine / theirs:.3g} times as much {detail}"
    mine, theirs = student["images_per_s"], teacher["images_per_s"]
    if theirs is None:
        return None
    return f"labels {mine / theirs:.3g} times as many images a second ({mine:.3g} against {theirs:.3g})"


def _engine(measurement: Measurement) -> dict[str, Any]:
    cells = []
    for cell in measurement.warm_up:
        samples_s = measurement.samples_s(cell)
        cells.append(
            {
                "scope": cell.scope,
                "batch": cell.batch,
                "n": len(samples_s),
                "mean_ms": 1e3 * sum(samples_s) / len(samples_s),
                **{f"p{p}_ms": percentile_ms(samples_s, p) for p in PERCENTILES},
                "images_per_s": images_per_s(samples_s, cell.batch),
                "warm_up_s": measurement.warm_up[cell],
                "rounds_s": measurement.rounds[cell],
            }
        )
    return {**measurement.facts, "cells": cells}


def _measured_row(
    name: str, accuracies: Accuracies, engine: Mapping[str, Any], options: BenchmarkOptions
) -> dict[str, Any]:
    whole = [cell for cell in engine["cells"] if cell["scope"] == BYTES_TO_LABEL]
    smallest = min(whole, key=lambda cell: int(cell["batch"]))
    best = max(whole, key=lambda cell: float(cell["images_per_s"]))
    return {
        "measured": True,
        "id_accuracy": in_domain(accuracies),
        "ood": asdict(out_of_domain(accuracies)),
        "latency_batch": smallest["batch"],
        **{key: smallest[key] for key in LATENCIES},
        "images_per_s": best["images_per_s"],
        "best_batch": best["batch"],
        **_price(name, best["images_per_s"], options),
        "model_bytes": engine["model_bytes"],
    }


def _recorded_row(recorded: Mapping[str, Any], options: BenchmarkOptions) -> dict[str, Any]:
    """The teacher as distillation left it in the manifest: accuracy, no time, the API's price if given."""
    target = recorded["target"]
    sources = [accuracy for domain, accuracy in recorded["teacher"].items() if domain != target]
    return {
        "measured": False,
        "id_accuracy": sum(sources) / len(sources),
        "ood": {"domain": target, "accuracy": recorded["teacher"][target], "low": None, "high": None},
        "latency_batch": None,
        **dict.fromkeys(LATENCIES),
        "images_per_s": None,
        "best_batch": None,
        **_price("teacher", None, options),
        "model_bytes": None,
    }


def _price(name: str, best_images_per_s: float | None, options: BenchmarkOptions) -> dict[str, Any]:
    """Cost of a million inferences and what it was computed from; None where that was not given."""
    if name == "teacher" and options.usd_per_1k_queries is not None:
        return {
            "usd_per_million": api_usd_per_million(options.usd_per_1k_queries),
            "priced_as": f"API, ${options.usd_per_1k_queries:g} per 1,000 queries",
        }
    if options.usd_per_hour is None or best_images_per_s is None:
        return {"usd_per_million": None, "priced_as": None}
    return {
        "usd_per_million": usd_per_million(options.usd_per_hour, best_images_per_s, options.utilisation),
        "priced_as": f"this machine, ${options.usd_per_hour:g} per hour, utilisation {options.utilisation:g}",
    }


def _break_even(summary: Mapping[str, Mapping[str, Any]], options: BenchmarkOptions) -> float | None:
    student = summary["student"]["usd_per_million"]
    teacher = summary["teacher"]["usd_per_million"] if "teacher" in summary else None
    if options.distillation_usd is None or teacher is None or student is None:
        return None
    return break_even_inferences(options.distillation_usd, teacher, student)


def usd(amount: float) -> str:
    """An amount in dollars, cents only where they matter.

    >>> usd(1500.0), usd(0.0123), usd(2.5)
    ('1,500', '0.0123', '2.50')
    """
    if amount >= 100:
        return f"{amount:,.0f}"
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.3g}"


def _points(accuracy: float) -> str:
    return f"{100 * accuracy:.1f}"
