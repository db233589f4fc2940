"""Attempts of a part of the campaign, each within a bound of processor time and memory, in processes of their own.

A part is a module with these names:

DOCUMENTED           exceptions that its attempts may raise
prepared(folder)     whatever its attempts share, made once a process in an empty folder
attempt(shared, rng) one attempt; what it does depends on the shared things and the random.Random alone

A process that an attempt crashes, or in which it takes too long, ends there; the next one goes on after it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CPU_S = 5  # of one attempt; more is a hang
PREPARATION_CPU_S = 60
MEMORY_BYTES = 6 << 30  # of address space
ROOT = Path(__file__).parents[2]


@dataclass
class Counts:
    """What became of the attempts.

    errors: of each kind of error that was not documented, of crashes and of hangs: the first attempts that
            ended so, as (number, words)
    """

    attempts: int = 0
    ok: int = 0
    documented: int = 0
    foreign: int = 0
    crashed: int = 0
    hung: int = 0
    errors: list[tuple[int, str]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.foreign or self.crashed or self.hung)

    def tree(self) -> dict[str, Any]:
        return asdict(self)


def run_part(part: str, seed: int, count: int, *, first: int = 0, most_errors: int = 30) -> Counts:
    """`count` attempts of a part from number `first` on; attempt n of a seed is always the same one.

    part: the module's name, such as benchmarks.campaign.recipes
    """
    counts, told, place, end = Counts(), Counter[str](), first, first + count
    while place < end:
        command = [sys.executable, "-m", "benchmarks.campaign.workers", part, str(seed), str(place), str(end)]
        worker = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
        )
        lines = [json.loads(line) for line in worker.stdout.splitlines()]
        if not lines:
            raise RuntimeError(f"{part}: no attempt began: {worker.stderr.decode(errors='replace')[-2000:]}")
        begun = lines[-1]["attempt"]
        for line in lines:
            if "outcome" in line:
                _count(counts, told, line["attempt"], line["outcome"], line.get("error", ""), most_errors)
        if worker.returncode:
            hung = worker.returncode == -signal.SIGXCPU
            words = f"{'hung' if hung else 'crashed'}: exit {worker.returncode}: {worker.stderr.decode(errors='replace')[-300:]}"
            _count(counts, told, begun, "hung" if hung else "crashed", words, most_errors)
        place = begun + 1
    return counts


def _count(
    counts: Counts, told: Counter[str], number: int, outcome: str, words: str, most_errors: int
) -> None:
    counts.attempts += 1
    setattr(counts, outcome, getattr(counts, outcome) + 1)
    kind = words.partition(": ")[0] + words.rpartition(" in ")[2]
    if outcome not in ("ok", "documented") and told[kind] < 3 and len(counts.errors) < most_errors:
        told[kind] += 1
        counts.errors.append((number, words))


def _work(part: str, seed: int, first: int, end: int) -> None:
    module: Any = importlib.import_module(part)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = sys.stdout
    sys.stdout = sys.stderr  # what an attempt prints is no reply
    with tempfile.TemporaryDirectory(prefix="vl2v-campaign-") as folder:
        _allow_cpu_s(PREPARATION_CPU_S)
        shared = module.prepared(Path(folder))
        for number in range(first, end):
            print(json.dumps({"attempt": number}), file=replies, flush=True)
            reply: dict[str, Any] = {"attempt": number, "outcome": "ok"}
            _allow_cpu_s(CPU_S)
            try:
                module.attempt(shared, random.Random(f"{part} {seed} {number}"))
            except module.DOCUMENTED as error:
                reply["outcome"] = "documented"
                if not str(error) or any(ord(c) < 32 and c != "\n" for c in str(error)):
                    reply |= {"outcome": "foreign", "error": f"unprintable: {error!r:.300}"}
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                words = " ".join(str(error).split())[:200]
                reply |= {"outcome": "foreign", "error": f"{type(error).__name__}: {words} in {where}"}
            print(json.dumps(reply), file=replies, flush=True)


def _allow_cpu_s(seconds: int) -> None:
    """SIGXCPU, which ends this process, after so many more seconds of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def main() -> None:
    parser = argparse.ArgumentParser(description="The attempts of one part; called by run_part.")
    parser.add_argument("part")
    for name in ("seed", "first", "end"):
        parser.add_argument(name, type=int)
    chosen = parser.parse_args()
    _work(chosen.part, chosen.seed, chosen.first, chosen.end)


if __name__ == "__main__":
    main()
