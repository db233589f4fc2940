"""Tables and figures of the trials (schedules, unlabelled images, backbones), for docs_figures.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.docs_files import json_of, lines_of
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.errors import BenchmarkError

UNLABELLED, MORE = "unlabelled_trials/runs.jsonl", "unlabelled_trials/more.jsonl"
SELECTION, AFTER = "unlabelled_trials/selection_signal.json", "after_training.jsonl"
BACKBONES, FRONTIER = "backbones.jsonl", "student_frontier_cpu-2core.json"
BOTH = "unlabelled + cosine"
ADAPTED = " †"  # some runs were trained on images of their target


@dataclass(frozen=True)
class Trials:
    """The trials of whole seeds: those with every variant on every target; lines by variant, target, seed."""

    variants: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    lines: Mapping[tuple[str, str, int], Mapping[str, Any]]

    def percent(self, variant: str, over: Sequence[str], value: str) -> list[float]:
        """Mean over targets, one for each seed."""
        return [
            100 * fmean(self.lines[variant, target, seed][value] for target in over) for seed in self.seeds
        ]


def _trials(results: Path) -> Trials:
    found = lines_of(results / UNLABELLED)
    variants, targets, seeds = (
        tuple(dict.fromkeys(line[key] for line in found)) for key in ("variant", "target", "seed")
    )
    lines = {(line["variant"], line["target"], line["seed"]): line for line in found}
    whole = tuple(s for s in seeds if all((v, t, s) in lines for v in variants for t in targets))
    if not whole:
        raise BenchmarkError(f"{UNLABELLED}: no seed has every variant on every target")
    return Trials(variants, targets, whole, lines)


def unlabelled_table(results: Path) -> Grid:
    """OOD accuracy of each variant by target, and what it could be selected by; means over whole seeds.

    Marked are means of which a run was trained on images of its target, as in the tables of runs.
    """
    trials = _trials(results)
    variants, targets, whole = trials.variants, trials.targets, trials.seeds

    def cell(variant: str, over: Sequence[str], value: str) -> str:
        by_seed = trials.percent(variant, over, value)
        error = f" ± {stdev(by_seed) / len(by_seed) ** 0.5:.1f}" if len(by_seed) > 1 else ""
        return f"{fmean(by_seed):.1f}{error}"

    def ood(variant: str, over: Sequence[str]) -> str:
        runs = [trials.lines[variant, target, seed] for target in over for seed in whole]
        return cell(variant, over, "ood") + (ADAPTED if any(run["adapted"] for run in runs) else "")

    columns = ("ID", "source val", "agreement with the teacher", "seeds")
    grid = Grid(("", *targets, "average OOD", *columns))
    for variant in variants:
        shares = [ood(variant, over) for over in (*([target] for target in targets), targets)]
        others = [cell(variant, targets, value) for value in ("id", "source_val", "held_out_agreement")]
        grid.rows.append((variant, *shares, *others, str(len(whole))))
    return grid


def variants_table(results: Path) -> Grid:
    """What else was tried: points that each variant adds, on the same targets and seeds."""
    lines = {_key(line): line for name in (UNLABELLED, MORE) for line in lines_of(results / name)}
    grid = Grid(("", "OOD", "better on", "ID", "source val", "agreement with the teacher"))
    tried = [line["variant"] for line in lines_of(results / MORE)]
    for variant in dict.fromkeys(tried):
        kind, _, change = variant.partition(", ")
        base = BOTH if kind == "both" else kind
        cells = [key for key in lines if key[0] == variant and (base, *key[1:]) in lines]
        if not cells:
            raise BenchmarkError(f"{MORE}: {variant}: no run of {base} to compare it with")
        pairs = [(lines[key], lines[base, *key[1:]]) for key in cells]

        def points(value: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = pairs) -> str:
            return f"{100 * fmean(mine[value] - other[value] for mine, other in pairs):+.1f}"

        better = sum(mine["ood"] > other["ood"] for mine, other in pairs)
        values = [points(value) for value in ("ood", "id", "source_val", "held_out_agreement")]
        grid.rows.append((f"{base}: {change}", values[0], f"{better} of {len(pairs)}", *values[1:]))
    return grid


def selection_table(results: Path) -> Grid:
    """OOD points that choosing by each signal loses against the best variant."""
    file = results / SELECTION
    try:
        study = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"{file}: cannot be read: {error.strerror or error}") from error
    for name, count in study["records"].items():
        if len(lines_of(file.parent / name)) != count:
            raise BenchmarkError(f"{SELECTION}: is of {count} lines of {name}: run selection_signal.py again")
    grid = Grid(
        ("chosen by", "OOD points lost", "less than by source val", "best chosen", "rank correlation")
    )
    groups = len(study["groups"])
    for signal, found in study["signals"].items():
        lost, less = (found[key] for key in ("regret", "less_than_source_val"))
        cells = [f"{lost['mean']:.1f} ± {lost['se']:.1f}", f"{less['mean']:+.1f} ± {less['se']:.1f}"]
        correlation = f"{found['correlation']:.2f}"
        grid.rows.append((signal, *cells, f"{found['best_chosen']} of {groups}", correlation))
    return grid


def after_table(results: Path) -> Grid:
    """Points that a temperature, a second head, soups and ensembles add to finished students."""
    names = {
        ("second head", "text"): "temperature",
        ("second head", "head"): "second head in place of the text classifier",
        ("second head", "mixed"): "second head and text classifier",
        ("seeds", "soup"): "soup of two seeds",
        ("seeds", "ensemble"): "ensemble of two seeds",
        ("recipes", "soup"): "soup of two recipes with the same Align",
        ("recipes", "ensemble"): "ensemble of two recipes",
    }
    grid = Grid(("", "OOD", "better on", "ID", "source val", "ECE out of domain"))
    lines = lines_of(results / AFTER)
    for (kind, made), name in names.items():
        pairs = [(line["student"], line[made]) for line in lines if line["kind"] == kind]
        if not pairs:
            continue
        gains = {key: [100 * (new[key] - old[key]) for old, new in pairs] for key in pairs[0][0]}
        error = {key: stdev(of) / len(of) ** 0.5 if len(of) > 1 else 0.0 for key, of in gains.items()}
        cells = [
            f"{fmean(gains[key]):+.1f} ± {error[key]:.1f}" for key in ("ood", "id", "source_val", "ood_ece")
        ]
        better = f"{sum(gain > 0 for gain in gains['ood'])} of {len(pairs)}"
        grid.rows.append((name, cells[0], better, *cells[1:]))
    return grid


def trial_figures(results: Path) -> dict[str, str]:
    """Points that a schedule and images without labels add, on the mean of the targets and seeds."""
    trials = _trials(results)
    first, *others = trials.variants
    names = {"ood": "OOD", "id": "ID", "source_val": "val", "held_out_agreement": "agreement"}
    return {
        f"trials.{variant} {name}": f"{gain:+.1f}"
        for variant in others
        for value, name in names.items()
        for gain in [
            fmean(trials.percent(variant, trials.targets, value))
            - fmean(trials.percent(first, trials.targets, value))
        ]
    }


def _key(line: Mapping[str, Any]) -> tuple[str, str, int]:
    return line["variant"], line["target"], line["seed"]


def frontier_table(results: Path) -> Grid:
    """One row a student: latency of its int8 file as a multiple of the fastest one's, and accuracy."""
    students = json_of(results / FRONTIER)["students"]
    least = min(one["latency_ms"]["int8"] for one in students)
    grid = Grid(("student", "px", "x fastest", "OOD %", "ID %", "on the frontier"))
    for one in sorted(students, key=lambda one: one["latency_ms"]["int8"]):
        shares = (f"{100 * one[name]:.1f}" for name in ("ood", "id"))
        times = f"{one['latency_ms']['int8'] / least:.2f}"
        on = "yes" if one["on_the_frontier"] else "no"
        grid.rows.append((f"`{one['backbone']}`", str(one["image_size_px"]), times, *shares, on))
    return grid


def backbones_table(results: Path) -> Grid:
    """One row a backbone: size, work, whether each precision is right, and time beside the reference's."""
    grid = Grid(("backbone", "px", "M", "G MACs", "fp32", "fp16", "int8 cosine", "x lite0", "int8 x lite0"))
    for found in lines_of(results / BACKBONES):
        if "error" in found:
            grid.rows.append((f"`{found['backbone']}`", *7 * ("-",), f"no: {found['error']}"))
            continue
        right = ["no" if "error" in found[name] else "yes" for name in ("fp32", "fp16")]
        cosine = found["int8"].get("min_cosine")
        times = (found["latency"].get(f"{name}_to_reference") for name in ("fp32", "int8"))
        grid.rows.append(
            (
                f"`{found['backbone']}`",
                str(found["image_size_px"]),
                f"{found['parameters'] / 1e6:.1f}",
                f"{'over ' if found['macs_uncounted'] else ''}{found['macs'] / 1e9:.2f}",
                *right,
                "no" if cosine is None else f"{cosine:.3f}",
                *("-" if ratio is None else f"{ratio:.2f}" for ratio in times),
            )
        )
    return grid
