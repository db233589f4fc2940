"""The result of a campaign: the totals of each part over all sittings, as the JSON file that is committed."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from vl2v_deploy import __version__

FORMAT = 2
GOALS = {"images": 100_000, "bundles": 10_000, "recipes": 5_000, "kills": 100}  # kills: of each command
OUTCOMES = ("attempts", "ok", "documented", "foreign", "crashed", "hung")
MOST_ERRORS = 30  # of a part, that are told


def begun(seed: int) -> dict[str, Any]:
    """A result without attempts.

    seed: of each part's first turn; every further turn has the next one
    """
    return {"format": FORMAT, "first_seed": seed, "sittings": [], "parts": {}}


def joined(files: Sequence[Path]) -> dict[str, Any]:
    """The results of several files as one, each of other parts.

    Raises click.ClickException for a file without a result, and for a part that two of them have: they may be
    of the same seeds.
    """
    first, *others = [read(file) for file in files]
    for file, other in zip(files[1:], others, strict=True):
        if twice := first["parts"].keys() & other["parts"].keys():
            raise click.ClickException(f"{file}: has attempts of {min(twice)}, and a file before it has, too")
        first["parts"] |= other["parts"]
        first["sittings"] += other["sittings"]
    first["sittings"].sort(key=lambda sitting: sitting["date"])
    return first


def read(file: Path) -> dict[str, Any]:
    """The result of earlier sittings.

    Raises click.ClickException for a file that holds none.
    """
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if result["format"] != FORMAT:
            raise ValueError(f"format {result['format']!r}, expected {FORMAT}")
        for name, part in result["parts"].items():
            first, last = part["seeds"]
            if name not in GOALS or last < first or not result["sittings"]:
                raise ValueError(f"part {name!r} with seeds {first} to {last}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise click.ClickException(f"{file}: holds no result of a campaign: {error!r}") from error
    return result


def write(result: Mapping[str, Any], file: Path) -> None:
    """The result in the file, whole at any moment."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)


def begin_sitting(result: dict[str, Any]) -> None:
    """Note when and where what follows was run."""
    result["sittings"].append(
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "minutes": 0.0,
            "turns": {},
        }
    )


def next_seed(result: Mapping[str, Any], part: str) -> int:
    """A seed that this part has not had in any sitting."""
    before = result["parts"].get(part)
    return int(before["seeds"][1]) + 1 if before else int(result["first_seed"])


def add(result: dict[str, Any], part: str, counts: Mapping[str, Any], started: float) -> None:
    """Add one turn of a part, which had its next seed, to the totals.

    counts:  attempts, ok, documented, foreign, crashed, hung, errors; of kills also `commands`, by name
    started: time.monotonic() of the sitting's begin
    """
    seed = next_seed(result, part)
    empty = {"seeds": [seed, seed], **dict.fromkeys(OUTCOMES, 0), "errors": []}
    total = result["parts"].setdefault(part, empty)
    total["seeds"][1] = seed
    for outcome in OUTCOMES:
        total[outcome] += counts[outcome]
    room = MOST_ERRORS - len(total["errors"])
    total["errors"] += [[seed, *error] for error in counts["errors"][:room]]
    for command, of_command in counts.get("commands", {}).items():
        sums = total.setdefault("commands", {}).setdefault(command, {})
        for name, number in of_command.items():
            sums[name] = sums.get(name, 0) + number
    sitting = result["sittings"][-1]
    sitting["turns"][part] = sitting["turns"].get(part, 0) + 1
    sitting["minutes"] = round((time.monotonic() - started) / 60, 2)


def reached(result: Mapping[str, Any], part: str) -> float:
    """The share of its goal that a part has reached; of kills, that of the command with the fewest."""
    total = result["parts"].get(part)
    if total is None:
        return 0.0
    commands = total.get("commands")
    done = min(of["ended"] for of in commands.values()) if commands else total["attempts"]
    return float(done / GOALS[part])


def is_clean(result: Mapping[str, Any]) -> bool:
    """Whether nothing failed in another way than the documented one."""
    return not any(part[bad] for part in result["parts"].values() for bad in ("foreign", "crashed", "hung"))
