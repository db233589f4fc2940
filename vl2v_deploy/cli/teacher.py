"""`vl2v-deploy teacher`: embeddings bought in advance, and what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from vl2v_deploy.cli.options import ANY_PATH, SETTINGS, SKIP_BAD, USD_PER_1K_QUERIES


@click.group()
def teacher() -> None:
    """Buy a teacher's image embeddings in advance, and see what they cost; each is bought once.

    \b
    vl2v-deploy teacher embed recipes/quickstart.yaml
    vl2v-deploy teacher stats --usd-per-1k-queries 0.1
    """


@teacher.command()
@click.argument("recipe", type=ANY_PATH)
@USD_PER_1K_QUERIES
@SETTINGS
@SKIP_BAD
def embed(recipe: Path, usd_per_1k_queries: float | None, overrides: tuple[str, ...], skip_bad: bool) -> None:
    """Buy every image embedding that the runs of RECIPE need; they then send no new image.

    \b
    vl2v-deploy teacher embed recipes/quickstart.yaml
    vl2v-deploy teacher embed pacs.yaml --set teacher_views=4 --usd-per-1k-queries 0.1
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    from vl2v_deploy.distillation.purchase import embed_ahead

    done = embed_ahead(loaded, skip_bad=skip_bad)
    price = done.usd_per_1k_images if usd_per_1k_queries is None else usd_per_1k_queries
    cost = "" if price is None else f" for ${done.bought * price / 1000:,.2f}"
    click.echo(f"{done.teacher}: {done.needed} embeddings needed, {done.bought} of them bought{cost}.")
    if done.online:
        click.echo("teacher_views: online sends every image of every step too; those are not bought here.")


@teacher.command()
@USD_PER_1K_QUERIES
@click.option(
    "--by",
    type=click.Choice(["teacher", "day", "run"]),
    default="teacher",
    show_default=True,
    help="What to add up; day and run are of vendors.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row, each on its line.")
def stats(usd_per_1k_queries: float | None, by: Literal["teacher", "day", "run"], as_json: bool) -> None:
    """What the store holds of each teacher: embeddings, their size, hits, misses (the images sent); and of
    vendors what the ledger says: paid, possibly paid (sent, and no answer came), in flight.

    \b
    vl2v-deploy teacher stats
    vl2v-deploy teacher stats --by run
    vl2v-deploy teacher stats --usd-per-1k-queries 0.1 --json
    """
    import json
    from dataclasses import asdict

    from vl2v_deploy.models.ledger.ledger import ledgers_folder

    if by != "teacher":
        from vl2v_deploy.models.ledger.spending import print_spendings, spendings

        sums = spendings(ledgers_folder(), by)
        if as_json:
            for name, spending in sums.items():
                click.echo(json.dumps({by: name} | asdict(spending)))
        else:
            print_spendings(sums, by)
        return
    from vl2v_deploy.models.store.stats import print_stats, store_stats
    from vl2v_deploy.models.store.store import store_root

    found = store_stats(store_root(), ledgers_folder())
    if not as_json:
        print_stats(found, usd_per_1k_queries)
        return
    for of_teacher in found:
        money = {}
        if usd_per_1k_queries is not None:
            money = {
                "cost_usd": of_teacher.cost_usd(usd_per_1k_queries),
                "saved_usd": of_teacher.saved_usd(usd_per_1k_queries),
            }
        row = asdict(of_teacher)
        click.echo(json.dumps(row | row.pop("spending") | money))
