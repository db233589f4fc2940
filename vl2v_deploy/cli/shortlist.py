"""`vl2v-deploy shortlist`: which backbones are fast enough here, before one is trained."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vl2v_deploy.cli.options import ANY_PATH, OVERWRITE, SETTINGS


@click.command()
@click.argument("recipe", type=ANY_PATH)
@click.option(
    "--latency-ms",
    required=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="The most that one image may take here.",
)
@click.option(
    "--backbones", metavar="NAME,NAME,...", help="timm's names.  [default: one of each of 12 families]"
)
@click.option(
    "--accuracy",
    type=ANY_PATH,
    metavar="CSV",
    help="timm's results-imagenet.csv: shows ImageNet accuracy and chooses by it.",
)
@click.option(
    "--keep", default=3, show_default=True, type=click.IntRange(min=1), help="How many to choose at most."
)
@click.option(
    "--minutes",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="No further backbone is begun after them.",
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: as the client chooses]")
@click.option("--out", type=ANY_PATH, metavar="FILE", help="Write a sweep over the chosen ones, in YAML.")
@click.option("--json", "as_json", is_flag=True, help="The measurements as one JSON object.")
@SETTINGS
@OVERWRITE
def shortlist(
    recipe: Path,
    latency_ms: float,
    backbones: str | None,
    accuracy: Path | None,
    keep: int,
    minutes: float,
    threads: int | None,
    out: Path | None,
    as_json: bool,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Which backbones answer in time on this machine's CPU, at RECIPE's image size, before any is trained.

    Each is exported with random weights, to fp32 and int8, and all files are timed in turn. One that cannot
    be exported is named with the reason. Reads no data and asks no teacher.

    \b
    vl2v-deploy shortlist recipes/quickstart.yaml --latency-ms 5
    vl2v-deploy shortlist recipes/pacs.yaml --latency-ms 10 --backbones resnet18,convnext_atto --out b.yaml
    vl2v-deploy sweep b.yaml
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    if out and out.exists() and not overwrite:
        raise click.ClickException(f"{out}: exists already; pass --overwrite to replace it")
    from vl2v_deploy.shortlist.candidates import CANDIDATES
    from vl2v_deploy.shortlist.render import print_shortlist, tree_of_shortlist, write_sweep_of
    from vl2v_deploy.shortlist.run import make_shortlist
    from vl2v_deploy.terminal import new_console

    names = [name.strip() for name in backbones.split(",") if name.strip()] if backbones else CANDIDATES
    made = make_shortlist(
        loaded,
        names,
        latency_ms=latency_ms,
        minutes=minutes,
        keep=keep,
        accuracy=accuracy,
        threads=threads,
    )
    if as_json:
        click.echo(json.dumps(tree_of_shortlist(made), indent=1))
    else:
        print_shortlist(made, new_console())
    if out:
        click.echo(write_sweep_of(made, recipe, out), err=as_json)
