"""The campaign: hostile images, bundles and recipes, and killed commands, each until its goal, as JSON.

    python -m benchmarks.campaign.run --minutes 10 --out campaign.json
    python -m benchmarks.campaign.run --minutes 60 --from campaign.json --out campaign.json

A part is a module beside this one with a `run(seed, count)`, which gives counts: attempts, ok, documented,
foreign, crashed, hung and errors. The part that is furthest behind its goal has the next turn, until all have
reached theirs or the time is over. --out is written after every turn, so that a campaign that is ended loses
one turn. With --from it goes on from an earlier result: totals are added, and no part has a seed twice. Parts
may run at once, each into a file of its own; --from may be repeated to put such files together:

    python -m benchmarks.campaign.run --minutes 0 --from kills.json --from rest.json --out campaign.json

What is clean has no foreign error, no crash and nothing that takes longer than 5 seconds of processor time.
It exits 1 when something was not clean, in whichever sitting.

One attempt again, with its traceback: python -m benchmarks.campaign.run --again bundles SEED NUMBER
"""

from __future__ import annotations

import importlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from benchmarks.campaign import tally
from benchmarks.campaign.tally import GOALS

TURNS = 10  # in which a part reaches its goal, unless --batch says how many attempts one has


def run_turn(part: str, seed: int, count: int) -> dict[str, Any]:
    """The counts of so many attempts of a part; of kills, of so many ends of each command."""
    module: Any = importlib.import_module(f"benchmarks.campaign.{part}")
    counts = module.run(seed, count)
    found: dict[str, Any] = counts if isinstance(counts, dict) else counts.tree()
    return found


def campaign(
    result: dict[str, Any], parts: Collection[str], minutes: float, batch: int | None, out: Path | None
) -> None:
    """Add turns to the result until every part is at its goal, or the time is over and each has had a turn.

    batch: attempts of a turn  [default: a tenth of the part's goal]
    out:   file that is written after every turn
    """
    started, sat = time.monotonic(), len(result["sittings"])
    while behind := [part for part in parts if tally.reached(result, part) < 1]:
        part = min(behind, key=lambda name: tally.reached(result, name))
        if time.monotonic() - started >= 60 * minutes and part in result["parts"]:
            break
        if len(result["sittings"]) == sat:
            tally.begin_sitting(result)
        counts = run_turn(part, tally.next_seed(result, part), batch or GOALS[part] // TURNS)
        tally.add(result, part, counts, started)
        if out:
            tally.write(result, out)
        click.echo(f"{part}: {100 * tally.reached(result, part):.1f} % of its goal", err=True)


def again(part: str, seed: int, number: int) -> None:
    """One attempt in this process, so that its error shows its traceback."""
    name = f"benchmarks.campaign.{part}"
    module: Any = importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        module.attempt(module.prepared(Path(folder)), random.Random(f"{name} {seed} {number}"))


FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(help="\b\n" + __doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", type=int, help="Of each part's first turn.  [default: 0]")
@click.option("--batch", type=click.IntRange(1), help="Attempts of a turn.  [default: a tenth of the goal]")
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(list(GOALS)), help="Repeatable.  [default: all]"
)
@click.option(
    "--from",
    "earlier",
    type=FILE,
    multiple=True,
    help="Result of earlier sittings to add to; repeatable.",
)
@click.option("--out", type=FILE, help="JSON file to write.  [default: standard output]")
@click.option("--again", "one", nargs=3, metavar="PART SEED NUMBER", type=(str, int, int))
def main(
    minutes: float,
    seed: int | None,
    batch: int | None,
    parts: tuple[str, ...],
    earlier: tuple[Path, ...],
    out: Path | None,
    one: tuple[str, int, int] | None,
) -> None:
    if one:
        again(*one)
        return
    if earlier and seed is not None:
        raise click.UsageError("--seed cannot be used with --from: seeds go on from the earlier result's")
    result = tally.joined(earlier) if earlier else tally.begun(seed or 0)
    campaign(result, parts or tuple(GOALS), minutes, batch, out)
    if out:
        tally.write(result, out)  # without a turn, too
    else:
        click.echo(json.dumps(result, indent=1))
    sys.exit(0 if tally.is_clean(result) else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the turn's process too
    main()
