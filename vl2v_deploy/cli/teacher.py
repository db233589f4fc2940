"""`vl2v-deploy teacher`: embeddings bought in advance, and what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vl2v_deploy.cli.merging import merge
from vl2v_deploy.cli.options import ANY_PATH, SETTINGS, SKIP_BAD, USD_PER_1K_QUERIES, part_option

if TYPE_CHECKING:
    from vl2v_deploy.bulk.parts import Part
    from vl2v_deploy.distillation.purchase.selection import Strategy


@click.group()
def teacher() -> None:
    """Check a teacher, buy its image embeddings in advance, and see what they cost; each is bought once.

    \b
    vl2v-deploy teacher check recipes/quickstart.yaml
    vl2v-deploy teacher embed recipes/quickstart.yaml
    vl2v-deploy teacher stats --usd-per-1k-queries 0.1
    """


teacher.add_command(merge)


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
@part_option("Buy only a part, which the content of an image decides; all parts together are all.")
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
    part: Part,
    usd_per_1k_queries: float | None,
    overrides: tuple[str, ...],
    skip_bad: bool,
) -> None:
    """Buy every image embedding that the runs of RECIPE need; they then send no new image.

    With a budget it buys training images alone, the best by --select, and `vl2v-deploy distill RECIPE --set
    missing_embeddings=text_term` trains on the others with the text term. Images that are held already do not
    count; a second budget buys further ones. Jobs with --part 1/N to N/N share one store, or each has a
    store of its own (VL2V_DEPLOY_CACHE), which `teacher merge` makes one.

    \b
    vl2v-deploy teacher embed recipes/quickstart.yaml --dry-run
    vl2v-deploy teacher embed pacs.yaml --set teacher_views=4 --usd-per-1k-queries 0.1
    vl2v-deploy teacher embed pacs.yaml --budget 500 --select coverage
    vl2v-deploy teacher embed pacs.yaml --part 3/8
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    from vl2v_deploy.distillation.purchase.ahead import (
        Choice,
        embed_ahead,
        embed_chosen,
        estimate_ahead,
    )
    from vl2v_deploy.distillation.purchase.render import print_estimate, print_purchase
    from vl2v_deploy.models.ledger.booking import billed_to
    from vl2v_deploy.terminal import new_console

    chooses = any(given is not None for given in (budget, usd, select, run))
    if chooses and part.of > 1:
        raise click.UsageError(
            "--part goes with none of --budget, --usd, --select and --run: choose in one job"
        )
    choice = Choice(budget, usd, select or "balanced", run) if chooses else None
    if dry_run:
        estimate = estimate_ahead(loaded, choice, part, skip_bad=skip_bad, usd_per_1k=usd_per_1k_queries)
        print_estimate(estimate, new_console())
        return
    with billed_to(recipe.stem):
        if choice is None:
            done = embed_ahead(loaded, part, skip_bad=skip_bad)
        else:
            done = embed_chosen(loaded, choice, skip_bad=skip_bad)
    print_purchase(done, usd_per_1k_queries, new_console())


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

    from vl2v_deploy.distillation.purchase.check import check_teacher
    from vl2v_deploy.distillation.purchase.render import check_tree, print_check, shown_cost
    from vl2v_deploy.models.ledger.booking import billed_to
    from vl2v_deploy.terminal import new_console

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
        print_check(found, new_console())
    if found.failed:
        sys.exit(1)


@teacher.command()
@click.argument("bundle", type=ANY_PATH)
@click.option("--out", type=ANY_PATH, default=Path("teacher.json"), show_default=True, help="The file.")
@click.option("--recipe", type=ANY_PATH, help="Whose teacher to pack.  [default: the bundle's own]")
def pack(bundle: Path, out: Path, recipe: Path | None) -> None:
    """Write a file with all that a cascade needs to ask the teacher of BUNDLE behind its API, except the key.

    Its class texts are bought once. `vl2v_deploy.ApiTeacher.load(FILE)` needs httpx and no torch.

    \b
    vl2v-deploy teacher pack bundles/vendor --out teacher.json
    vl2v-deploy teacher pack bundles/quickstart --recipe served.yaml
    """
    from vl2v_deploy.client.archive import opened_bundle
    from vl2v_deploy.exporting.finished.pack import pack_teacher
    from vl2v_deploy.models.ledger.booking import billed_to
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    with opened_bundle(bundle) as opened, billed_to(opened.name):
        packed = pack_teacher(opened, out, loaded)
    click.echo(
        f"{out}: {packed.identity}, {len(packed.classes)} classes, ${packed.usd_per_1k_images:g} for 1,000"
        " images" + (f"; set {packed.key_env} where it is used" if packed.key_env else "")
    )


@teacher.command("import")
@click.argument("folder", type=ANY_PATH)
@click.option("--recipe", type=ANY_PATH, help="Whose teacher it must be.  [default: as FOLDER says]")
def import_(folder: Path, recipe: Path | None) -> None:
    """Put what a cascade has kept in FOLDER into the embedding store: it is not paid for again.

    The images then serve as training images without labels.

    \b
    vl2v-deploy teacher import kept --recipe pacs.yaml
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    from vl2v_deploy.models.store.kept import import_kept
    from vl2v_deploy.models.store.store import store_root
    from vl2v_deploy.models.teacher.load import load_teacher

    found = import_kept(folder, store_root(), load_teacher(loaded.teacher) if loaded else None)
    click.echo(
        f"{found.imported:,} embeddings of {found.identity} imported; {found.held:,} were held already."
    )
    for why, count in found.left_out.items():
        click.echo(f"Left out: {count:,} {why}.", err=True)
    click.echo(
        "To train on the images, add to the recipe's data section, and set align.unlabelled_per_step and\n"
        f"distill.unlabelled_per_step:\n  unlabelled: [{folder.absolute()}]"
    )


@teacher.command()
@click.option("--buy-again", is_flag=True, help="Agree that what damaged parts held is bought again.")
def repair(buy_again: bool) -> None:
    """Check every embedding that is held; damaged parts are set aside, and nothing is asked.

    While a part of a paid teacher is set aside, nothing is bought of it: what it held may have been paid for.
    Put back a copy of the file, or agree with --buy-again. Exit code 1 while there are such parts.

    \b
    vl2v-deploy teacher repair
    vl2v-deploy teacher repair --buy-again
    """
    import sys

    from vl2v_deploy.models.store.repair import check_store
    from vl2v_deploy.models.store.store import store_root

    found = check_store(store_root(), buy_again=buy_again)
    for of_teacher in found:
        click.echo(f"{of_teacher.teacher}: {of_teacher.whole:,} embeddings are whole.")
        for problem in of_teacher.damaged:
            click.echo(problem, err=True)
        for name in of_teacher.set_aside:
            done = "given up: what it held is bought again when it is needed" if buy_again else "set aside"
            click.echo(f"{of_teacher.teacher}/{name}: {done}.", err=True)
    if not buy_again and any(of_teacher.set_aside for of_teacher in found):
        sys.exit(1)


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
