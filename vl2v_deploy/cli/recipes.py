"""`recipe` and `init`: recipes are checked, described and begun."""

from __future__ import annotations

from pathlib import Path

import click

from vl2v_deploy.cli.options import ALLOW_DUPLICATES, ANY_PATH, OVERWRITE, SETTINGS, SKIP_BAD
from vl2v_deploy.names import command


@click.group()
def recipe() -> None:
    """Check recipes, and the schema that editors use.

    \b
    vl2v-deploy recipe check recipes/quickstart.yaml
    vl2v-deploy recipe schema > recipe.schema.json
    """


@recipe.command()
@click.argument("file", type=ANY_PATH)
@SETTINGS
def check(file: Path, overrides: tuple[str, ...]) -> None:
    """Check FILE against the schema and print it with every default filled in.

    \b
    vl2v-deploy recipe check recipes/quickstart.yaml
    """
    from vl2v_deploy.recipe import dump_recipe, load_recipe

    click.echo(dump_recipe(load_recipe(file, overrides)), nl=False)


@recipe.command()
def schema() -> None:
    """Print the JSON Schema of a recipe.

    \b
    vl2v-deploy recipe schema > recipe.schema.json
    """
    import json

    from vl2v_deploy.recipe import recipe_json_schema

    click.echo(json.dumps(recipe_json_schema(), indent=2))


@click.command()
@click.argument("directory", type=ANY_PATH)
@click.option("--target", help="The domain to keep unseen.  [default: the last by name]")
@click.option(
    "--teacher",
    default="open_clip",
    show_default=True,
    help="A local model, or one behind an API: openai, jina, vllm, cohere, voyage, kserve, azure, titan.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="A class to use; repeatable, in the order of the logits.  [default: all]",
)
@click.option(
    "--convert",
    type=ANY_PATH,
    metavar="FOLDER",
    help="Write a manifest of webdataset tars, Parquet or Arrow of `datasets`, or folders train, val, test "
    "to a new FOLDER, with the images unpacked; the recipe is for that.",
)
@click.option("--out", type=ANY_PATH, help="Recipe file to write.  [default: standard output]")
@SKIP_BAD
@ALLOW_DUPLICATES
@OVERWRITE
def init(
    directory: Path,
    target: str | None,
    teacher: str,
    classes: tuple[str, ...],
    convert: Path | None,
    out: Path | None,
    skip_bad: bool,
    allow_duplicates: bool,
    overwrite: bool,
) -> None:
    """Write a commented recipe for a folder DIRECTORY/domain/class/image or DIRECTORY/class/image, or a
    manifest (CSV, JSONL or Parquet with the columns image,label and perhaps domain, split and group), or a
    folder with such a metadata file of Hugging Face datasets. Packed images: --convert.

    \b
    vl2v-deploy init data/pacs --target sketch --out pacs.yaml
    vl2v-deploy init data/pacs --teacher jina
    vl2v-deploy init shards --convert data/shards --out shards.yaml
    """
    from vl2v_deploy.data.notices import folder_notices, seen_layout
    from vl2v_deploy.data.packed.convert import convert as converted
    from vl2v_deploy.data.starter import starter_recipe

    if out is not None and out.exists() and not overwrite:
        raise click.ClickException(f"{out}: exists already; pass --overwrite to replace it")
    if convert is not None:
        directory, said = converted(directory, convert)
        for line in said:
            click.echo(line, err=True)
    text, domain_set = starter_recipe(
        directory,
        target,
        out,
        teacher,
        classes=classes,
        skip_bad=skip_bad,
        allow_duplicates=allow_duplicates,
    )
    for notice in (seen_layout(domain_set), *folder_notices(domain_set)):
        click.echo(notice, err=True)
    if out is None:
        click.echo(text, nl=False)
        return
    out.write_text(text, encoding="utf-8")
    options = ["--skip-bad"] if domain_set.skipped else []
    if teacher == "open_clip":
        click.echo(f"Wrote {out}. Next: {command('distill', out, *options)}")
        click.echo(f"How long that takes on this machine: {command('distill', out, *options, '--dry-run')}")
    else:
        check = command("teacher", "check", out, *options)
        click.echo(f"Wrote {out}. Next: fill in what is BLANK in it, then: {check}")
