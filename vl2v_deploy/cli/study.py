"""`vl2v-deploy sweep`, `table` and `plot`: many runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vl2v_deploy.cli.launching import Launch, launch, launch_options
from vl2v_deploy.cli.options import ANY_PATH, OVERWRITE, RESUME, SKIP_BAD
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.torchrun import is_first_process


@click.command()
@click.argument("recipe", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, help="Folder of the runs.  [default: runs/<recipe name>-sweep]")
@click.option(
    "--set",
    "grid",
    multiple=True,
    metavar="FIELD=VALUE,VALUE,...",
    help="Values of a field; repeated: every combination. One value applies to all runs.",
)
@SKIP_BAD
@OVERWRITE
@RESUME
@launch_options
def sweep(
    recipe: Path,
    out: Path | None,
    grid: tuple[str, ...],
    skip_bad: bool,
    overwrite: bool,
    resume: bool,
    **launching: Any,
) -> None:
    """Run RECIPE with every combination of settings, then compare the runs; finished ones are kept.

    RECIPE can also be a sweep that `shortlist --out` wrote: it names the recipe and the values itself, and
    the table then has the latency that was measured.

    Choose settings by the table's columns "source val" and "agreement", never by accuracy out of domain: at
    its end the command names the best by each.

    \b
    vl2v-deploy sweep recipes/quickstart.yaml --set distill.image_weight=0,0.25,0.5,0.75,1
    vl2v-deploy sweep recipes/pacs.yaml --set distill.learning_rate=1e-5,5e-5 --set seed=0,1 --resume
    vl2v-deploy sweep backbones.yaml --resume
    vl2v-deploy sweep recipes/pacs.yaml --set seed=0,1,2,3 --launcher slurm --partition gpu --gpus 1
    """
    given = Launch(**launching)
    given.check(overwrite=overwrite)
    from vl2v_deploy.distillation.study.comparison import comparisons
    from vl2v_deploy.distillation.study.figures import draw_figures
    from vl2v_deploy.distillation.study.results import load_results
    from vl2v_deploy.distillation.study.selection import best_settings
    from vl2v_deploy.distillation.study.table import tables, with_latency
    from vl2v_deploy.distillation.study.table_formats import print_tables, write_tables
    from vl2v_deploy.distillation.sweep import combinations, sweep_recipe
    from vl2v_deploy.distillation.sweep_file import read_sweep
    from vl2v_deploy.launching.plan import run_commands, write_plan
    from vl2v_deploy.terminal import new_console

    folder = out or Path("runs") / f"{recipe.stem}-sweep"
    given_sweep = read_sweep(recipe, grid)
    file, varied = given_sweep.recipe, given_sweep.grid
    commands = run_commands(file, combinations(varied, folder), folder, ["--skip-bad"] if skip_bad else [])
    if given.elsewhere:
        if not launch(given, commands, folder):
            return
        runs = [each.path for each in commands]
    else:
        if is_first_process():
            write_plan(commands, folder)
        runs = sweep_recipe(file, varied, folder, skip_bad=skip_bad, overwrite=overwrite, resume=resume)
        if not is_first_process():
            return
    made = tables(runs)
    if latency := given_sweep.latency:
        made = [with_latency(one, latency) for one in made]
    print_tables(made, new_console())
    for file in (*write_tables(made, folder), *draw_figures(runs, folder).files):
        click.echo(f"Wrote {file}")
    for comparison in comparisons(load_results(runs)):
        for line in best_settings(comparison):
            click.echo(line)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=ANY_PATH)
@click.option("--out", type=ANY_PATH, help="Folder for table.md, .csv, .tex, .json and runs.jsonl.")
@click.option(
    "--latency",
    "sweep_file",
    type=ANY_PATH,
    metavar="SWEEP",
    help="Add the latency of the backbones, from the sweep that `shortlist --out` wrote.",
)
@click.option("--json", "as_json", is_flag=True, help="The tables as JSON, as in table.json.")
def table(runs: tuple[Path, ...], out: Path | None, sweep_file: Path | None, as_json: bool) -> None:
    """Methods against target domains, from finished RUNS or folders of them: OOD and ID accuracy, %.

    Of a sweep, or a recipe of many runs, that is not finished it names the runs that are missing.
    With --out it also writes runs.jsonl, one line per run; it can be named instead of the runs' folders.

    \b
    vl2v-deploy table runs/study
    vl2v-deploy table runs/study runs/baselines --out reports/study
    vl2v-deploy table reports/study/runs.jsonl runs/one-more
    vl2v-deploy table runs/backbones-sweep --latency backbones.yaml
    """
    from vl2v_deploy.distillation.study.table import tables, with_latency
    from vl2v_deploy.distillation.study.table_formats import json_of_tables, print_tables, write_tables
    from vl2v_deploy.distillation.sweep_file import read_sweep
    from vl2v_deploy.launching.plan import missing_runs
    from vl2v_deploy.terminal import new_console

    for line in (missing := missing_runs(runs)):
        click.echo(f"Missing: {line}", err=True)
    made = tables(runs)
    if sweep_file:
        latency = read_sweep(sweep_file).latency
        if latency is None:
            raise RecipeError(f"{sweep_file}: holds no latency; `vl2v-deploy shortlist --out` writes it")
        made = [with_latency(one, latency) for one in made]
    if as_json:
        click.echo(json_of_tables(made), nl=False)
    else:
        print_tables(made, new_console())
    for file in write_tables(made, out) if out else ():
        click.echo(f"Wrote {file}", err=as_json)
    if missing:
        click.echo(f"Not all planned runs are in this table: {len(missing)} are missing.", err=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=ANY_PATH)
@click.option("--out", type=ANY_PATH, required=True, help="Folder for the PNG files.")
def plot(runs: tuple[Path, ...], out: Path) -> None:
    """Draw finished RUNS or folders of them: accuracy by method, domain and class, lambda, training curves.

    A table's runs.jsonl can be named too; it has no training curves.

    \b
    vl2v-deploy plot runs/study --out reports/study
    """
    from vl2v_deploy.distillation.study.figures import draw_figures

    drawn = draw_figures(runs, out)
    for file in drawn.files:
        click.echo(f"Wrote {file}")
    for missing in drawn.missing:
        click.echo(f"Not drawn: {missing}")


study_commands = (sweep, table, plot)
