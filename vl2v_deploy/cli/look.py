"""`vl2v-deploy look`: a run or a bundle in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vl2v_deploy.cli.options import ANY_PATH, SKIP_BAD
from vl2v_deploy.names import shown


@click.command()
@click.argument("student", type=ANY_PATH, metavar="RUN|BUNDLE")
@click.option("--out", type=ANY_PATH, help="HTML file.  [default: reports/<name>/look.html]")
@click.option(
    "--images",
    metavar="FOLDER",
    help="Look at images without labels: a folder, or whatever else `predict` takes.",
)
@click.option(
    "--data", type=ANY_PATH, help="Where the student's images are now.  [default: as in the recipe]"
)
@click.option("--precision", default="auto", show_default=True, help="Which ONNX file of a bundle answers.")
@click.option(
    "--max-images",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images of a domain, spread over its classes, or of --images.",
)
@click.option(
    "--ask-teacher",
    is_flag=True,
    help="Ask the teacher about images that it has not answered yet; a vendor is paid for it. "
    "[default: show only the answers in the store]",
)
@SKIP_BAD
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
def look(student: Path, as_json: bool, **options: Any) -> None:
    """A student in pictures, on one self-contained page, for people who look rather than read.

    Its most confident mistakes in each domain, where it disagrees with its teacher, its worst classes, what
    it takes for what, and a map of its embeddings. With --images, of any images: of which it is least and
    most sure, and what it takes them for.

    \b
    vl2v-deploy look runs/quickstart
    vl2v-deploy look bundles/quickstart --out look.html
    vl2v-deploy look bundles/quickstart --images photos
    """
    import json

    if options["images"] is not None and (options["ask_teacher"] or options["data"]):
        raise click.UsageError(
            "--images: does not go with --ask-teacher or --data, which are about labelled data"
        )
    from vl2v_deploy.api import look as look_at

    found = look_at(student, options.pop("out"), **options)
    if as_json:
        click.echo(json.dumps(found.summary))
    else:
        click.echo("\n".join([*found.words, f"page: {shown(found.path)}"]))
