"""`vl2v-deploy teacher merge`: stores of several jobs or machines become one."""

from __future__ import annotations

from pathlib import Path

import click

from vl2v_deploy.cli.options import ANY_PATH


@click.command()
@click.argument("stores", nargs=-1, required=True, type=ANY_PATH, metavar="STORE...")
@click.option(
    "--into", type=ANY_PATH, metavar="STORE", help="The store that gets all.  [default: this machine's]"
)
@click.option("--recipe", type=ANY_PATH, help="Whose teacher to merge.  [default: the only one they hold]")
def merge(stores: tuple[Path, ...], into: Path | None, recipe: Path | None) -> None:
    """Put the embeddings of other stores, and what was paid for them, into one; again does no harm.

    A STORE is a folder that VL2V_DEPLOY_CACHE named for `teacher embed --part`. All are checked first: a
    damaged store, one that is being written, or of another teacher is refused by name.

    \b
    vl2v-deploy teacher merge part-1 part-2
    vl2v-deploy teacher merge part-* --into all --recipe pacs.yaml
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    from vl2v_deploy.models.store.merging import merge_stores
    from vl2v_deploy.models.store.store import store_root
    from vl2v_deploy.models.teacher.load import load_teacher

    merged = merge_stores(
        stores, into or store_root().parent, load_teacher(loaded.teacher) if loaded else None
    )
    click.echo(f"{merged.added:,} embeddings of {merged.teacher} merged; {merged.held:,} were held already.")
