"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

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
