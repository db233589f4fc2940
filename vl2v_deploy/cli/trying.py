"""`distill --dry-run`: what a recipe's training would be, without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vl2v_deploy.errors import DataError, ProviderError
from vl2v_deploy.names import shown

if TYPE_CHECKING:
    from vl2v_deploy.recipe import Recipe


def try_recipe(path: Path, recipe: Recipe, *, skip_bad: bool) -> None:
    """Try the models and their export, then say what all runs ask the teacher and how long they train.

    path: of the recipe, as the user named it
    """
    from vl2v_deploy.recipe import HttpRecipe

    teacher = None
    if isinstance(recipe.teacher, HttpRecipe):
        from vl2v_deploy.distillation.purchase.ahead import estimate_ahead
        from vl2v_deploy.distillation.purchase.render import print_estimate
        from vl2v_deploy.terminal import new_console

        print_estimate(estimate_ahead(recipe, None, skip_bad=skip_bad), new_console())
    else:
        from vl2v_deploy.distillation.dry_run import dry_run, untrained_teacher
        from vl2v_deploy.distillation.report import print_dry_runs

        teacher = untrained_teacher(recipe)
        print_dry_runs(dry_run(recipe, teacher))
    from vl2v_deploy.exporting.trial import in_words, try_exports

    for trial in try_exports(recipe):  # before what takes longer
        click.echo(in_words(trial))
    from vl2v_deploy.data.domains import load_domains
    from vl2v_deploy.distillation.forecast import forecast, needed_queries
    from vl2v_deploy.distillation.report import print_forecast, print_queries

    try:
        if teacher is None:
            domain_set = load_domains(recipe.data, skip_bad=skip_bad)
        else:
            domain_set, needed = needed_queries(recipe, teacher, skip_bad=skip_bad)
            print_queries(needed, path)
    except DataError as error:
        [why, *_] = str(error).splitlines()
        click.echo(f"No estimate of training time and queries, which need the data: {shown(why)}")
        return
    try:
        print_forecast(forecast(recipe, domain_set))
    except ProviderError as error:
        click.echo(f"No estimate of training time: {error}; --set device=cpu estimates it for this CPU")
