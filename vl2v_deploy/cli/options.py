"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from vl2v_deploy.bulk.parts import Part

RUNS, BUNDLES = Path("runs"), Path("bundles")

ANY_PATH = click.Path(path_type=Path)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what is already there.")
SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Leave out images that cannot be used; they are counted."
)
ALLOW_DUPLICATES = click.option(
    "--allow-duplicates",
    is_flag=True,
    help="Split images with the same bytes as any others, also where one of them is held out or of another "
    "class; they are counted. Same as data.split.duplicates: allow.",
)
ALLOW_FORMAT = click.option(
    "--allow-format",
    "formats",
    multiple=True,
    type=click.Choice(["BMP", "PPM", "TIFF", "AVIF", "JPEG2000"], case_sensitive=False),
    help="Read images of this format too, not only JPEG, PNG, WebP and GIF; repeatable.",
)
RESUME = click.option(
    "--resume",
    is_flag=True,
    help="Go on with interrupted runs, from their last checkpoint; finished ones are kept.",
)
SETTINGS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override a field of the recipe; repeatable.",
)
USD_PER_1K_QUERIES = click.option(
    "--usd-per-1k-queries",
    type=click.FloatRange(min=0),
    metavar="USD",
    help="Price of the teacher as a paid API.",
)


def part_option(help_text: str) -> Callable[[Any], Any]:
    """--part i/N, for arrays of jobs."""
    return click.option("--part", metavar="i/N", callback=_part, help=help_text)


def _part(_: click.Context, __: click.Parameter, text: str | None) -> Part:
    from vl2v_deploy.bulk.parts import EVERYTHING, part_from_text

    try:
        return part_from_text(text) if text else EVERYTHING
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
