"""The campaign: every part of it for some minutes, and what became of the attempts as JSON.

    python -m benchmarks.campaign.run --minutes 10 --out campaign.json

A part is a module beside this one with a `run(seed, count)`, which gives counts: attempts, ok, documented,
foreign, crashed, hung and errors. What is clean has no foreign error, no crash and nothing that takes longer
than 5 seconds of processor time. It exits 1 when something was not clean.

One attempt again, with its traceback: python -m benchmarks.campaign.run --again bundles SEED NUMBER
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import benchmarks.campaign
from vl2v_deploy import __version__

OUTCOMES = ("attempts", "ok", "documented", "foreign", "crashed", "hung")
BATCH = 250  # attempts of a part before the next one has its turn
MOST_ERRORS = 30  # of a part, that are told


def parts() -> dict[str, Callable[[int, int], Any]]:
    """The parts that are there, by name; where an attempt costs more than others, as many fewer are made."""
    found = {}
    for info in pkgutil.iter_modules(benchmarks.campaign.__path__):
        if info.name not in ("run", "workers"):
            module = importlib.import_module(f"benchmarks.campaign.{info.name}")
            run, each_costs = getattr(module, "run", None), getattr(module, "EACH_COSTS", 1)
            if callable(run):
                found[info.name] = partial(_fewer, run, each_costs)
    return found


def _fewer(run: Callable[[int, int], Any], each_costs: int, seed: int, count: int) -> Any:
    return run(seed, max(1, count // each_costs))


def campaign(
    chosen: dict[str, Callable[[int, int], Any]], seed: int, minutes: float, batch: int
) -> dict[str, Any]:
    """What became of each part's attempts; the parts take turns until the time is over, at least once."""
    started = time.monotonic()
    totals: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    errors: dict[str, list[Any]] = {name: [] for name in chosen}
    turn = 0
    while turn == 0 or time.monotonic() - started < 60 * minutes:
        for name, run in chosen.items():
            counts = run(seed + turn, batch)
            tree = counts if isinstance(counts, dict) else counts.tree()
            totals[name].update({outcome: tree.get(outcome, 0) for outcome in OUTCOMES})
            room = MOST_ERRORS - len(errors[name])
            errors[name] += [[seed + turn, *error] for error in tree.get("errors", [])[:room]]
        turn += 1
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "seeds": [seed, seed + turn - 1],
        "attempts_a_turn": batch,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "parts": {name: dict(totals[name]) | {"errors": errors[name]} for name in chosen},
    }


def is_clean(result: dict[str, Any]) -> bool:
    """Whether nothing failed in another way than the documented one."""
    return not any(part[bad] for part in result["parts"].values() for bad in ("foreign", "crashed", "hung"))


def again(part: str, seed: int, number: int) -> None:
    """One attempt in this process, so that its error shows its traceback."""
    name = f"benchmarks.campaign.{part}"
    module: Any = importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        module.attempt(module.prepared(Path(folder)), random.Random(f"{name} {seed} {number}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--batch", type=int, default=BATCH, help="attempts of a part before the next one's turn"
    )
    parser.add_argument("--part", action="append", choices=sorted(parts()), help="repeatable  [default: all]")
    parser.add_argument("--out", type=Path, help="JSON file to write  [default: standard output]")
    parser.add_argument("--again", nargs=3, metavar=("PART", "SEED", "NUMBER"))
    chosen = parser.parse_args()
    if chosen.again:
        part, seed, number = chosen.again
        again(part, int(seed), int(number))
        return
    wanted = {name: run for name, run in parts().items() if not chosen.part or name in chosen.part}
    result = campaign(wanted, chosen.seed, chosen.minutes, chosen.batch)
    text = json.dumps(result, indent=1) + "\n"
    if chosen.out:
        chosen.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    sys.exit(0 if is_clean(result) else 1)


if __name__ == "__main__":
    main()
