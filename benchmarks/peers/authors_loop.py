"""Ours against the authors' training procedure: same models, steps and images, in one run.

    python benchmarks/peers/authors_loop.py --quick          a few minutes on two cores
    python benchmarks/peers/authors_loop.py                  the recipe's own steps; writes benchmarks/results
    python benchmarks/peers/authors_loop.py --scenario gpu-deit-s --device cuda
    python benchmarks/peers/authors_loop.py --until-accuracy     see benchmarks/peers/until_accuracy.py

What their procedure is stands in benchmarks/peers/procedure.py.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.console import Console
from rich.table import Table

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers import until_accuracy
from benchmarks.peers.comparison import STAGES, compare, processor_s
from benchmarks.peers.procedure import PeerOptions
from benchmarks.peers.result_file import ROOT, header, write_report
from benchmarks.peers.scenarios import Scenario, scenario_recipe
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.memory import keep_freed_memory
from vl2v_deploy.recipe import Recipe

QUICK = {"steps": 24, "batch_per_domain": 12, "evaluate_every": 12}
# Of the authors' side with --until-accuracy; with 100 steps each of their runs takes minutes, not an hour.
UNTIL_ACCURACY = {"steps": 100, "batch_per_domain": 12, "evaluate_every": 20}
ENOUGH = 10  # a total ratio below this is explained


LoadRecipe = Callable[[Sequence[str]], Recipe]


def our_lines(recipe: Recipe, quick: bool) -> dict[str, Recipe]:
    """The recipes of our side by the name of their line: the teacher asked once an image, or two views."""
    views = (0,) if quick else (0, 2)
    lines = {f"teacher_views {count}": recipe.model_copy(update={"teacher_views": count}) for count in views}
    if recipe.device != "cpu":
        distill = recipe.distill.model_copy(update={"precision": "bf16"})
        lines |= {
            f"{name}, bf16": line.model_copy(update={"distill": distill}) for name, line in lines.items()
        }
    return lines


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The table: a row each part, the authors' column, then for each of our lines what it took and the ratio.

    Every number is one of the report's own, rounded; a ratio above 1 says that ours is faster or asks less.
    """
    authors, lines, ratios = report["authors"], report["ours"], report["ratios"]

    def row(title: str, theirs: str, ours: Mapping[str, str], ratio: str | None = None) -> list[str]:
        cells = ((ours[name], f"{ratios[name][ratio]:.1f}" if ratio else "") for name in lines)
        return [title, theirs, *(cell for pair in cells for cell in pair)]

    def seconds(title: str, part: str, theirs: str = "-") -> list[str]:
        return row(
            title, theirs, {name: f"{line['seconds'].get(part, 0):.1f} s" for name, line in lines.items()}
        )

    def speed(stage: Mapping[str, Any], seconds: float) -> str:
        return f"{seconds:.1f} s, {stage['images_per_s']:.0f} images/s"

    def summed(*parts: str) -> float:
        return math.fsum(
            authors["stages"][stage]["seconds"].get(part, 0) for stage in STAGES for part in parts
        )

    rows = [
        seconds("teacher embeddings", "teacher", "in every step"),
        seconds("student features", "features", "in every step"),
    ]
    for stage in STAGES:
        theirs = authors["stages"][stage]
        trained_s = theirs["seconds"]["data"] + theirs["seconds"]["train"]
        ours = {
            name: speed(line["stages"][stage], line["stages"][stage]["seconds"])
            for name, line in lines.items()
        }
        rows.append(row(stage, speed(theirs, trained_s), ours, stage))
    rest = {
        name: f"{line['total_s'] - fixed_s(line) - sum(line['stages'][s]['seconds'] for s in STAGES):.1f} s"
        for name, line in lines.items()
    }
    rows += [
        seconds("evaluation (ours: at the end)", "evaluate", f"{summed('evaluate'):.1f} s"),
        row("the rest (ours: with validation)", f"{summed('load', 'copy', 'save'):.1f} s", rest),
    ]
    totals = {name: f"{line['total_s']:.1f} s" for name, line in lines.items()}
    busy = {name: f"{processor_s(line):.1f} s" for name, line in lines.items()}
    asked = {name: str(line["teacher_images"]) for name, line in lines.items()}
    rows += [
        row("total", f"{authors['total_s']:.1f} s", totals, "total"),
        row("seconds of all processors", f"{processor_s(authors):.1f} s", busy, "processor"),
        row("images sent to the teacher", str(authors["teacher_images"]), asked, "teacher_images"),
    ]
    for title, key in (("ID accuracy, %", "id"), ("OOD accuracy, %", "ood")):
        percent = {name: f"{100 * line['accuracy'][key]:.1f}" for name, line in lines.items()}
        rows.append(row(title, f"{100 * authors['accuracy'][key]:.1f}", percent))
    return rows


def explanations(report: Mapping[str, Any]) -> list[str]:
    """For each of our lines whose total ratio is low, where its time goes; from the report's own numbers."""
    found = []
    for name, line in report["ours"].items():
        ratio, total_s = report["ratios"][name]["total"], line["total_s"]
        if ratio >= ENOUGH:
            continue
        own = line["stages"]["distill"]["seconds"] / total_s
        fixed = fixed_s(line) / total_s
        found.append(
            f"{name}: total ratio {ratio:.1f}. {100 * own:.0f} % of our time is Distill, the student's own "
            f"forward and backward passes, which both sides need; {100 * fixed:.0f} % is paid once, however "
            "many steps follow (embeddings, features, evaluation); the rest loads, checks and validates."
        )
    return found


def fixed_s(line: Mapping[str, Any]) -> float:
    """Seconds of ours that do not grow with the steps."""
    return float(sum(line["seconds"].get(part, 0) for part in ("teacher", "features", "evaluate")))


def print_report(report: Mapping[str, Any]) -> None:
    table = Table(title=f"{report['scenario']} on {report['device_name']}, {report['threads']} threads")
    for title in ("", "authors' procedure", *(cell for name in report["ours"] for cell in (name, "ratio"))):
        table.add_column(title, justify="right" if title else "left")
    for cells in table_rows(report):
        table.add_row(*cells, end_section=cells[0].startswith(("the rest", "images sent")))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # in a log, no line of the table is folded
    console.print(table)
    for line in (*report["notes"], *explanations(report)):
        console.print(line, soft_wrap=True)


def overrides_from(options: Mapping[str, Any]) -> list[str]:
    """The command's options as the recipe's overrides; those not given leave the recipe as it is."""
    # Their procedure takes no images without labels: ours goes without, so that a step is the same.
    given = [f"device={options['device']}", "distill.unlabelled_per_step=0", "data.unlabelled=[]"]
    if options["target"]:
        given.append(f"data.target={options['target']}")
    return [*given, *stage_overrides(options)]


def stage_overrides(options: Mapping[str, Any]) -> list[str]:
    """Steps, batch and evaluations of both stages."""
    otherwise: Mapping[str, int] = UNTIL_ACCURACY if options["until_accuracy"] else {}
    if options["quick"]:
        otherwise = QUICK
    values = {name: options[name] or otherwise.get(name) for name in QUICK}
    return [f"{stage}.{name}={value}" for name, value in values.items() for stage in STAGES if value]


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK['steps']} steps, one line of ours; a few minutes.")
@click.option("--steps", type=click.IntRange(2), help="Of each stage.  [default: the recipe's]")
@click.option("--batch-per-domain", type=click.IntRange(1), help="In both stages.  [default: the recipe's]")
@click.option("--evaluate-every", type=click.IntRange(1), help="Steps.  [default: the recipe's]")
@click.option("--target", help="The unseen domain.  [default: the recipe's]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--scenario", type=click.Choice(get_args(Scenario)), default="emojidg-cpu", show_default=True)
@click.option("--workers", type=click.IntRange(0), help="Of each of their loaders.  [default: 1; on cuda 4]")
@click.option("--threads", type=click.IntRange(1), help="Of torch, for both sides.  [default: usable cores]")
@click.option("--backbone-gradients", is_flag=True, help="Their Align with its unused backward pass.")
@click.option("--pretrained", is_flag=True, help="GPU scenarios: published weights, not random ones.")
@click.option("--until-accuracy", is_flag=True, help="Our time to the authors' final OOD accuracy.")
@click.option("--targets", default="noto,twemoji", show_default=True, help="Of --until-accuracy.")
@click.option("--seeds", default="0", show_default=True, help="Of --until-accuracy.")
@click.option("--budgets", default="25,50,100,200", show_default=True, help="Steps of our Distill.")
@click.option(
    "--set", "ours", multiple=True, metavar="FIELD=VALUE", help="Of our side; {target} stands for it."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(scenario: Scenario, out: Path | None, **options: Any) -> None:
    """Compare vl2v-deploy's distillation with the authors' procedure."""
    torch.set_num_threads(options["threads"] or default_threads().count)
    on_cpu = options["device"] == "cpu"
    # DomainBed's N_WORKERS is 4: with four loaders on two cores, sixteen processes would fight for them.
    workers = options["workers"] if options["workers"] is not None else 1 if on_cpu else 4
    peer = PeerOptions(workers, options["backbone_gradients"])
    # Ours does it on a processor. Theirs would be slower without: what glibc does is not their procedure.
    keeps = on_cpu and keep_freed_memory()
    try:
        require_device(options["device"])  # before anything is made for it
        notes = notes_on(scenario, peer, pretrained=options["pretrained"])
        if keeps:
            notes.append("Both sides keep freed memory (see vl2v_deploy/models/memory.py).")
        with tempfile.TemporaryDirectory() as scratch:
            load = partial(scenario_recipe, scenario, folder=Path(scratch), pretrained=options["pretrained"])
            measure = reach_accuracy if options["until_accuracy"] else compare_once
            path = measure(scenario, load, peer, notes, out, options)
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Written to {path}")


def compare_once(
    scenario: Scenario,
    load: LoadRecipe,
    peer: PeerOptions,
    notes: list[str],
    out: Path | None,
    options: Mapping[str, Any],
) -> Path:
    """Both sides on one target, with the same steps; the file that was written."""
    recipe = load(overrides_from(options))
    head = header(scenario, recipe, peer, notes)
    report = head | compare(recipe, our_lines(recipe, options["quick"]), peer)
    path = out or _folder(options) / f"authors_loop_{scenario}_{report['device_name']}.json"
    write_report(report, path)
    print_report(report)
    return path


def reach_accuracy(
    scenario: Scenario,
    load: LoadRecipe,
    peer: PeerOptions,
    notes: list[str],
    out: Path | None,
    options: Mapping[str, Any],
) -> Path:
    """Our time to the authors' final OOD accuracy; the file that was written."""
    if scenario != "emojidg-cpu":
        raise click.UsageError(f"--until-accuracy with --scenario {scenario}: its accuracies mean nothing")
    targets = tuple(options["targets"].split(","))
    plan = until_accuracy.Plan(
        load=load,
        common=(f"device={options['device']}",),
        authors=tuple(stage_overrides(options)),
        ours=options["ours"],
        targets=targets,
        seeds=tuple(map(int, options["seeds"].split(","))),
        budgets=tuple(sorted(map(int, options["budgets"].split(",")))),
    )
    recipe = load([*plan.common, *plan.authors, f"data.target={targets[0]}"])
    head = header(scenario, recipe, peer, [*notes, *until_accuracy.NOTES]) | {"ours_set": list(plan.ours)}
    path = out or _folder(options) / f"time_to_accuracy_{scenario}_{head['device_name']}.json"
    report = until_accuracy.measure(plan, head, peer, path)
    columns, rows = until_accuracy.table(report)
    shown = Table(*columns, title=f"{scenario} on {report['device_name']}, {report['threads']} threads")
    for cells in rows:
        shown.add_row(*cells)
    Console().print(shown)
    click.echo(until_accuracy.verdict(report))
    return path


def _folder(options: Mapping[str, Any]) -> Path:
    return ROOT / ("reports" if options["quick"] else "benchmarks/results")


def notes_on(scenario: Scenario, options: PeerOptions, *, pretrained: bool) -> list[str]:
    """What has to be said beside the numbers."""
    notes = [
        f"The authors' loaders have {options.workers} process(es) for each source domain; ours uses threads.",
        "The authors' Align "
        + ("backpropagates through" if options.backbone_gradients else "does not backpropagate through")
        + " the frozen backbone; in their public code it does, to no effect.",
    ]
    if scenario != "emojidg-cpu":
        notes.append(
            "Generated images" + ("." if pretrained else ", random weights: accuracies mean nothing.")
        )
    return notes


if __name__ == "__main__":
    main()
