"""Ours against the authors' training procedure: same models, steps and images, in one run.

    python benchmarks/peers/authors_loop.py --quick          a few minutes on two cores
    python benchmarks/peers/authors_loop.py                  the recipe's own steps; writes benchmarks/results
    python benchmarks/peers/authors_loop.py --scenario gpu-deit-s --device cuda

What their procedure is stands in benchmarks/peers/procedure.py.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.console import Console
from rich.table import Table

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.comparison import STAGES, compare, processor_s
from benchmarks.peers.procedure import PeerOptions
from benchmarks.peers.scenarios import Scenario, scenario_recipe
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.memory import keep_freed_memory
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, recipe_sha256

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1
QUICK = {"steps": 24, "batch_per_domain": 12, "evaluate_every": 12}
ENOUGH = 10  # a total ratio below this is explained


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


def device_name(device: torch.device) -> str:
    """What results are filed under: 'cpu-2core', or the GPU's name."""
    if device.type == "cpu":
        return f"cpu-{default_threads().count}core"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")


def git_commit() -> str | None:
    """The commit of this checkout, '+changes' behind it if files differ; None outside of one."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(
            [git, "-C", str(ROOT), *words], check=True, capture_output=True, text=True
        ).stdout

    changed = ask("status", "--porcelain", "--untracked-files=no").strip()
    return ask("rev-parse", "HEAD").strip() + ("+changes" if changed else "")


def header(scenario: str, recipe: Recipe, options: PeerOptions, notes: list[str]) -> dict[str, Any]:
    """What a reader must know of a run beside its numbers."""
    device = require_device(recipe.device)
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/peers/authors_loop.py", *sys.argv[1:]]),
        "scenario": scenario,
        "device_name": device_name(device),
        "device": describe_device(),
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "git_commit": git_commit(),
        "recipe_sha256": recipe_sha256(recipe),
        "recipe": {
            "target": recipe.data.target,
            "student": recipe.student.backbone,
            "align": recipe.align.model_dump(mode="json"),
            "distill": recipe.distill.model_dump(mode="json"),
        },
        "authors_options": {"workers": options.workers, "backbone_gradients": options.backbone_gradients},
        "notes": notes,
    }


def write_report(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False)
    # A list of numbers on one line: a JSON string holds no raw newline, so nothing else can match.
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")


def overrides_from(options: Mapping[str, Any]) -> list[str]:
    """The command's options as the recipe's overrides; those not given leave the recipe as it is."""
    given = [f"device={options['device']}"]
    if options["target"]:
        given.append(f"data.target={options['target']}")
    for name in QUICK:
        value = options[name] or (QUICK[name] if options["quick"] else None)
        given += [f"{stage}.{name}={value}" for stage in STAGES if value]
    return given


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
        with tempfile.TemporaryDirectory() as scratch:
            overrides = overrides_from(options)
            recipe = scenario_recipe(scenario, overrides, Path(scratch), pretrained=options["pretrained"])
            notes = notes_on(scenario, peer, pretrained=options["pretrained"])
            if keeps:
                notes.append("Both sides keep freed memory (see vl2v_deploy/models/memory.py).")
            head = header(scenario, recipe, peer, notes)
            report = head | compare(recipe, our_lines(recipe, options["quick"]), peer)
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    folder = ROOT / ("reports" if options["quick"] else "benchmarks/results")
    path = out or folder / f"authors_loop_{scenario}_{report['device_name']}.json"
    write_report(report, path)
    print_report(report)
    click.echo(f"Written to {path}")


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
