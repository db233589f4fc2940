"""`vl2v-deploy teacher`: embeddings bought in advance, and what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.cli.options import ANY_PATH, SETTINGS, SKIP_BAD, USD_PER_1K_QUERIES

if TYPE_CHECKING:
    from vl2v_deploy.distillation.purchase.selection import Strategy


@click.group()
def teacher() -> None:
    """Check a teacher, buy its image embeddings in advance, and see what they cost; each is bought once.

    \b
    vl2v-deploy teacher check recipes/quickstart.yaml
    vl2v-deploy teacher embed recipes/quickstart.yaml
    vl2v-deploy teacher stats --usd-per-1k-queries 0.1
    """


@teacher.command()
@click.argument("recipe", type=ANY_PATH)
@click.option("--dry-run", is_flag=True, help="Only say what it would cost; the teacher is asked nothing.")
@click.option("--budget", type=click.IntRange(min=1), metavar="N", help="Buy N queries of training images.")
@click.option("--usd", type=click.FloatRange(min=0, min_open=True), help="Buy training images for so much.")
@click.option(
    "--select",
    type=click.Choice(["random", "balanced", "coverage", "uncertain"]),
    help="Which images a budget buys: balanced = of each class and domain alike; coverage = those that the "
    "pretrained student sees as most different; uncertain = those that --run is least sure of.  "
    "[default: balanced]",
)
@click.option("--run", type=ANY_PATH, help="Run whose student --select uncertain asks.")
@USD_PER_1K_QUERIES
@SETTINGS
@SKIP_BAD
def embed(
    recipe: Path,
    dry_run: bool,
    budget: int | None,
    usd: float | None,
    select: Strategy | None,
    run: Path | None,
    usd_per_1k_queries: float | None,
    overrides: tuple[str, ...],
    skip_bad: bool,
) -> None:
    """Buy every image embedding that the runs of RECIPE need; they then send no new image.

    With a budget it buys training images alone, the best by --select, and `vl2v-deploy distill RECIPE --set
    missing_embeddings=text_term` trains on the others with the text term. Images that are held already do not
    count; a second budget buys further ones.

    \b
    vl2v-deploy teacher embed recipes/quickstart.yaml --dry-run
    vl2v-deploy teacher embed pacs.yaml --set teacher_views=4 --usd-per-1k-queries 0.1
    vl2v-deploy teacher embed pacs.yaml --budget 500 --select coverage
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    from rich.console import Console

    from vl2v_deploy.distillation.purchase.ahead import (
        Choice,
        embed_ahead,
        embed_chosen,
        estimate_ahead,
    )
    from vl2v_deploy.distillation.purchase.render import print_estimate, print_purchase
    from vl2v_deploy.models.ledger.ledger import billed_to

    chooses = any(given is not None for given in (budget, usd, select, run))
    choice = Choice(budget, usd, select or "balanced", run) if chooses else None
    if dry_run:
        estimate = estimate_ahead(loaded, choice, skip_bad=skip_bad, usd_per_1k=usd_per_1k_queries)
        print_estimate(estimate, Console())
        return
    with billed_to(recipe.stem):
        if choice is None:
            done = embed_ahead(loaded, skip_bad=skip_bad)
        else:
            done = embed_chosen(loaded, choice, skip_bad=skip_bad)
    print_purchase(done, usd_per_1k_queries, Console())


@teacher.command()
@click.argument("recipe", type=ANY_PATH)
@click.option(
    "--images",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Labelled images of the sources to classify.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@SETTINGS
@SKIP_BAD
def check(recipe: Path, images: int, as_json: bool, overrides: tuple[str, ...], skip_bad: bool) -> None:
    """See for a few cents whether the teacher of RECIPE is what you want, and what all data will cost.

    It asks about some images of the sources, never of the target, and the prompts; what it buys is kept for
    `embed`. Exit code 1 if a check failed.

    \b
    vl2v-deploy teacher check recipes/quickstart.yaml
    vl2v-deploy teacher check pacs.yaml --images 300 --json
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    import json
    import sys

    from rich.console import Console

    from vl2v_deploy.distillation.purchase.check import check_teacher
    from vl2v_deploy.distillation.purchase.render import check_tree, print_check, shown_cost
    from vl2v_deploy.models.ledger.ledger import billed_to

    with billed_to(recipe.stem):
        found = check_teacher(
            loaded,
            images,
            skip_bad=skip_bad,
            announce=lambda cost: click.echo(f"This check asks at most {shown_cost(cost)}.", err=True),
        )
    if as_json:
        click.echo(json.dumps(check_tree(found)))
    else:
        print_check(found, Console())
    if found.failed:
        sys.exit(1)


@teacher.command()
@USD_PER_1K_QUERIES
@click.option("--json", "as_json", is_flag=True, help="One JSON object per teacher, each on its line.")
def stats(usd_per_1k_queries: float | None, as_json: bool) -> None:
    """What the store holds of each teacher: embeddings, their size, hits, misses (the paid queries).

    \b
    vl2v-deploy teacher stats
    vl2v-deploy teacher stats --usd-per-1k-queries 0.1 --json
    """
    import json
    from dataclasses import asdict

    from vl2v_deploy.models.store.stats import print_stats, store_stats
    from vl2v_deploy.models.store.store import store_root

    found = store_stats(store_root())
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
        click.echo(json.dumps(asdict(of_teacher) | money))


@teacher.command()
@click.argument("recipe", type=ANY_PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 = all.")
@click.option("--port", default=8080, show_default=True, help="0 = any that is free.")
@click.option("--name", help="Of the model, for its clients.  [default: the last part of the teacher's name]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--key-env", metavar="NAME", help="Environment variable with the key that clients must send.")
@click.option("--requests-per-minute", type=float, help="Of each client address.")
@click.option("--images-per-minute", type=float, help="Of each client address.")
@click.option("--max-batch", default=16, show_default=True, help="Images or texts computed at once.")
@click.option("--max-delay-ms", default=5.0, show_default=True, help="Wait for others to fill a batch.")
@click.option("--max-queue", default=4096, show_default=True, help="Images and texts in work; else 503.")
@click.option("--max-body-bytes", default=32_000_000, show_default=True, help="Of a request.")
@SETTINGS
def serve(
    recipe: Path,
    device: str,
    name: str | None,
    key_env: str | None,
    overrides: tuple[str, ...],
    **settings: Any,
) -> None:
    """Serve the teacher of RECIPE to others: an OpenAI-style and a KServe v2 API, one model, batches.

    Recipes name it with `teacher: {kind: http, api: openai, url: http://HOST:PORT, model: NAME, ...}`.
    Answers are the same whatever they are computed beside; SIGTERM ends it once all that wait are answered.

    \b
    vl2v-deploy teacher serve recipes/quickstart.yaml
    VL2V_KEY=... vl2v-deploy teacher serve pacs.yaml --host 0.0.0.0 --key-env VL2V_KEY --device cuda
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    from vl2v_deploy.serving.run import serve_recipe
    from vl2v_deploy.serving.settings import ServeSettings, key_from_environment

    chosen = ServeSettings(key=key_from_environment(key_env), **settings)
    if chosen.key is None and chosen.host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(f"Whoever reaches {chosen.host} may query this teacher: there is no --key-env.", err=True)
    serve_recipe(loaded.teacher, chosen, device=device, name=name, ready=click.echo)
