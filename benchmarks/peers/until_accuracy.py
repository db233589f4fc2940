"""Time to accuracy: how long ours takes to be as good out of domain as the authors' procedure at its end.

    python benchmarks/peers/authors_loop.py --until-accuracy

The authors' procedure runs to its end on each target and seed. A cosine schedule is made for its number of
steps, so ours has no curve to be read off: each budget of Distill steps is a run of its own, from files to a
finished run directory, with the recipe's schedule and its own Align. The mean accuracy over the targets says
which budgets reach theirs. The targets' images are used for that alone: no setting is chosen by them.

Every run is a part of the result file, written when it ends; a command that is given again goes on where the
last one stopped. On a machine that others use, seconds of all processors are the figure to read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import click

from benchmarks.peers.comparison import STAGES, processor_s, run_ours, run_peer
from benchmarks.peers.procedure import PeerOptions
from benchmarks.peers.result_file import git_commit, write_report
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.recipe import Recipe, recipe_sha256

Side = Literal["authors", "ours"]
GOAL = 10  # times as fast
PAID_ONCE = ("teacher", "features", "evaluate")
# What has to be equal for two parts to be compared.
CONDITIONS = ("device_name", "device", "threads", "environment", "versions", "authors_options")
NOTES = (
    "The targets' images say which budgets reach the authors' accuracy; no setting was chosen by them.",
    "Neither side is charged for starting Python; theirs is two programs.",
    "Ours evaluates more than theirs: the zero-shot teacher, a linear probe, the sources' test images.",
)


class Key(NamedTuple):
    """Which run a part is; steps: of Distill."""

    side: Side
    target: str
    seed: int
    steps: int


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison.

    load:     a recipe from overrides
    common:   overrides of both sides, such as the device
    authors:  overrides of the authors' side: steps, batch and evaluations of both stages
    ours:     overrides of our side alone; {target} stands for the target
    budgets:  steps of our Distill, ascending
    """

    load: Callable[[Sequence[str]], Recipe]
    common: tuple[str, ...]
    authors: tuple[str, ...]
    ours: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]

    def runs(self) -> Iterator[tuple[Key, Recipe]]:
        """Every run and its recipe: of each target the authors', then ours from the shortest on."""
        for seed in self.seeds:
            for target in self.targets:
                of_run = (*self.common, f"data.target={target}", f"seed={seed}")
                theirs = self.load([*of_run, *self.authors])
                yield Key("authors", target, seed, theirs.distill.steps), theirs
                for steps in self.budgets:
                    yield (
                        Key("ours", target, seed, steps),
                        self.load([*of_run, *self._ours(theirs, steps, target)]),
                    )

    def _ours(self, theirs: Recipe, steps: int, target: str) -> Iterator[str]:
        """As many evaluations in a run as theirs, which are segments for SWAD; a step as in the recipe."""
        stage = theirs.distill
        yield f"distill.steps={steps}"
        yield f"distill.evaluate_every={max(1, steps * stage.evaluate_every // stage.steps)}"
        yield from (override.replace("{target}", target) for override in self.ours)


def measure(plan: Plan, head: Mapping[str, Any], options: PeerOptions, path: Path) -> dict[str, Any]:
    """The report, in `path` after every run; the runs that are there from the same recipes are kept.

    head: of the report; its summary is of this plan's runs, its parts may be of others as well

    Raises BenchmarkError for a file that was measured under other conditions.
    """
    known = _kept(path, head)
    wanted = list(plan.runs())
    for key, recipe in wanted:
        if key in known and known[key]["recipe_sha256"] == recipe_sha256(recipe):
            continue
        click.echo(f"{key.side}, {key.target}, seed {key.seed}, {key.steps} steps", err=True)
        known[key] = key._asdict() | _run(key, recipe, options)
        write_report({**head, "parts": list(known.values())}, path)
    report = {**head, "summary": summary([known[key] for key, _ in wanted]), "parts": list(known.values())}
    write_report(report, path)
    return report


def _kept(path: Path, head: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in CONDITIONS:
        if before.get(name) != json.loads(json.dumps(head[name])):
            raise BenchmarkError(
                f"{path}: was measured with {name} {before.get(name)}, this would be {head[name]}; pass "
                "another --out, or remove the file to measure everything anew"
            )
    return {Key(*(part[field] for field in Key._fields)): part for part in before["parts"]}


def _run(key: Key, recipe: Recipe, options: PeerOptions) -> dict[str, Any]:
    """One run of a side; without its loss curves, which no figure needs."""
    commit = git_commit()
    measured = run_peer(recipe, options) if key.side == "authors" else run_ours(recipe)
    for stage in measured["stages"].values():
        stage.pop("losses", None)
    return measured | {"recipe_sha256": recipe_sha256(recipe), "git_commit": commit}


def summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over targets and seeds of each side, and the budget from which on ours is at least as good.

    A budget counts as reached when it and every longer one have at least the authors' accuracy: of several
    tries the first that happens to pass would flatter ours. None when the longest one does not.
    """
    authors = _line([part for part in parts if part["side"] == "authors"])
    budgets = sorted({part["steps"] for part in parts if part["side"] == "ours"})
    ours = {
        steps: _line([part for part in parts if (part["side"], part["steps"]) == ("ours", steps)])
        for steps in budgets
    }
    reached = None
    for steps in reversed(budgets):
        if ours[steps]["ood"] < authors["ood"]:
            break
        reached = steps
    return {
        "authors": authors,
        "ours": {str(steps): line for steps, line in ours.items()},
        "reached": reached,
        "times_as_fast": {
            str(steps): {
                part: authors[part] / line[part] for part in ("total_s", "processor_s", "training_s")
            }
            for steps, line in ours.items()
        },
    }


def _line(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the runs of one line of the table; ood_error: of the mean OOD, from the number of images."""
    targets = list(dict.fromkeys(part["target"] for part in parts))
    by_target = {
        target: fmean(part["accuracy"]["ood"] for part in parts if part["target"] == target)
        for target in targets
    }
    # Seeds share the images: more of them do not make this error smaller.
    images = {part["target"]: part["accuracy"]["images"][part["target"]] for part in parts}
    variances = [share * (1 - share) / images[target] for target, share in by_target.items()]
    return {
        "ood": fmean(by_target.values()),
        "ood_error": sqrt(sum(variances)) / len(targets),
        "by_target": by_target,
        "id": fmean(part["accuracy"]["id"] for part in parts),
        "total_s": fmean(part["total_s"] for part in parts),
        "processor_s": fmean(processor_s(part) for part in parts),
        "training_s": fmean(training_s(part) for part in parts),
        "paid_once_s": fmean(
            sum(part.get("seconds", {}).get(name, 0) for name in PAID_ONCE) for part in parts
        ),
        "images_per_step": fmean(images_per_step(part) for part in parts),
        "teacher_images": fmean(part["teacher_images"] for part in parts),
    }


def images_per_step(part: Mapping[str, Any]) -> float:
    """Images of a step of Distill, with and without labels."""
    stage = part["stages"]["distill"]
    return float(stage["images"] / stage["steps"])


def training_s(part: Mapping[str, Any]) -> float:
    """Seconds of the steps of both stages, the wait for batches among them, without evaluations."""
    if part["side"] == "ours":
        return sum(float(part["stages"][stage]["seconds"]) for stage in STAGES)
    seconds = [part["stages"][stage]["seconds"] for stage in STAGES]
    return sum(float(of_stage["data"] + of_stage["train"]) for of_stage in seconds)


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the authors' procedure and our budgets; every number is of the summary, rounded."""
    found = report["summary"]
    lines = [found["authors"], *found["ours"].values()]
    fast = found["times_as_fast"].values()

    def row(title: str, text: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [title, *map(text, lines)]

    def on_target(target: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda line: f"{100 * line['by_target'][target]:.1f}"

    def times(title: str, part: str) -> list[str]:
        return [title, "1", *(f"{ratios[part]:.1f}" for ratios in fast)]

    columns = ["a run", "authors' procedure", *(f"ours, {steps} steps" for steps in found["ours"])]
    return columns, [
        row("OOD accuracy, %, mean", lambda line: f"{100 * line['ood']:.1f} ± {100 * line['ood_error']:.1f}"),
        *(row(f"... on {target}", on_target(target)) for target in found["authors"]["by_target"]),
        row("ID accuracy, %", lambda line: f"{100 * line['id']:.1f}"),
        row("seconds of all processors", lambda line: f"{line['processor_s']:.0f} s"),
        row("seconds by the clock", lambda line: f"{line['total_s']:.0f} s"),
        row("... training steps", lambda line: f"{line['training_s']:.0f} s"),
        row("... paid once", lambda line: f"{line['paid_once_s']:.0f} s" if line["paid_once_s"] else "-"),
        row("images in a step of Distill", lambda line: f"{line['images_per_step']:.0f}"),
        row("images sent to the teacher", lambda line: f"{line['teacher_images']:,.0f}"),
        times("times as fast, processors", "processor_s"),
        times("times as fast, clock", "total_s"),
        times("times as fast, training steps", "training_s"),
    ]


def verdict(report: Mapping[str, Any]) -> str:
    """The answer in a sentence or two."""
    found = report["summary"]
    authors = found["authors"]
    if found["reached"] is None:
        longest = list(found["ours"].values())[-1]
        return (
            f"Not reached: the authors' procedure ends at {100 * authors['ood']:.1f} % OOD, our longest run "
            f"at {100 * longest['ood']:.1f} %."
        )
    steps = str(found["reached"])
    ratios = found["times_as_fast"][steps]
    return (
        f"The authors' final {100 * authors['ood']:.1f} % OOD is reached by our runs from {steps} steps of "
        f"Distill on, with {100 / ratios['processor_s']:.0f} % of their processor time (the goal: "
        f"{100 // GOAL} %)."
    )
