"""Long commands ended at random moments: given again, is everything as if nothing had happened?

    python -m benchmarks.campaign.kills --kills 100 --commands distill,embed --seed 0

A chain is one command: it is started, ended by a signal, given again with --resume or --overwrite, perhaps
ended again, and at last left alone. Commands run in forked children of one process that has imported their
modules, so that a kill costs no more than what it interrupts. Signals are SIGKILL and those that ask for an
end. Prints one line of JSON. What counts against a command:

    traceback   it printed one
    status      it ended by itself with another status than 0 or 128 + the signal
    hang        it was still there a minute after the signal, or did not end when left alone
    orphan      a process that it had started lived on for five seconds after it
    stuck       given again, it refused to go on
    different   the result is not, to the last bit, that of a command that nobody ended
    left over   a file or folder is there that such a command does not leave
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.campaign.forked import any_left, log, start, wait

ROOT = Path(__file__).resolve().parents[2]
# Three in seven ends cannot be answered; the others are those of schedulers, terminals and Ctrl-C.
SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM] * 2 + [signal.SIGHUP, signal.SIGINT]
PATIENCE_S, ALONE_S = 60.0, 600.0
UNDER_WAY = (".journal", ".unfinished", ".tmp")
FAULTS = ("traceback", "status", "hang", "orphan", "stuck", "different", "left over")


@dataclass(frozen=True)
class Command:
    """A long command of the CLI, in a folder that holds recipe.yaml, the run `made` and the bundle `bundle`.

    words:  as it is given first
    again:  what may be added when it is given again
    result: a digest of what it made
    """

    words: tuple[str, ...]
    again: tuple[str, ...]
    result: Callable[[Path], str]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _predictions(folder: Path) -> str:
    """What the benchmark answered; its times are never the same."""
    report = json.loads((folder / "report/report.json").read_text(encoding="utf-8"))
    engines = report["measurements"]["engines"]
    return json.dumps([(engine["name"], engine["status"], engine["predictions"]) for engine in engines])


def _run_of_embeddings(folder: Path) -> str:
    """What a run makes of the embeddings that were bought before, and how many it had to buy."""
    if not (folder / "run").exists():
        wait(start(COMMANDS["distill"].words, folder), ALONE_S)
    record = json.loads((folder / "run/run.json").read_text(encoding="utf-8"))
    return f"{_sha256(folder / 'run/student.safetensors')} {record['teacher']['queries']}"


COMMANDS = {
    "distill": Command(
        ("distill", "recipe.yaml", "--out", "run"),
        ("--resume", "--resume", "--overwrite"),
        lambda folder: _sha256(folder / "run/student.safetensors"),
    ),
    "embed": Command(("teacher", "embed", "recipe.yaml"), ("",), _run_of_embeddings),
    "export": Command(
        ("export", "made", "--out", "exported", "--precision", "fp32"),
        ("", "--overwrite"),
        lambda folder: _sha256(folder / "exported/student.onnx"),
    ),
    "benchmark": Command(
        (
            *("benchmark", "bundle", "--out", "report", "--engines", "onnxruntime:fp32", "--teacher"),
            *("--seconds", "1", "--batch", "1"),
        ),
        ("",),
        _predictions,
    ),
}


@dataclass
class Workplace:
    """Folders to work in: `base` is copied for each chain, so that chains know nothing of each other."""

    base: Path
    chains: Path
    number: int = 0

    def fresh(self) -> Path:
        """A copy of the base."""
        self.number += 1
        folder = self.chains / str(self.number)
        shutil.copytree(self.base, folder)
        return folder


def run(seed: int, count: int) -> dict[str, Any]:
    """`count` ends of each command, counted as the campaign's other parts count, and for each command.

    In a process of its own: it must not have computed when it forks.
    """
    words = [sys.executable, "-m", "benchmarks.campaign.kills", "--kills", str(count), "--seed", str(seed)]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    counts: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    ended = sum(of_command["ended"] for of_command in counts.values())
    faults: Counter[str] = Counter()
    for of_command in counts.values():
        faults.update({fault: of_command[fault] for fault in FAULTS})
    return {
        "attempts": ended,
        "ok": ended - faults.total(),
        "documented": 0,
        "foreign": faults["traceback"] + faults["status"],
        "crashed": sum(faults[fault] for fault in ("orphan", "stuck", "different", "left over")),
        "hung": faults["hang"],
        "errors": [
            [name, fault, of_command[fault]]
            for name, of_command in counts.items()
            for fault in FAULTS
            if of_command[fault]
        ],
        "commands": counts,
    }


@click.command(help=__doc__)
@click.option("--kills", default=10, show_default=True, type=click.IntRange(1), help="Ends of each command.")
@click.option("--seed", default=0, show_default=True)
@click.option("--commands", default=",".join(COMMANDS), show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the chains that went wrong.")
def main(kills: int, seed: int, commands: str, keep: Path | None) -> None:
    names = commands.split(",")
    if unknown := set(names) - set(COMMANDS):
        raise click.BadParameter(f"no command {sorted(unknown)[0]!r}; there are: {', '.join(COMMANDS)}")
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        work = Workplace(Path(scratch) / "base", Path(scratch) / "chains")
        _import_all()
        _make_base(work.base)
        print(json.dumps({name: dict(_ended(name, kills, seed, work, keep)) for name in names}))


def _ended(name: str, kills: int, seed: int, work: Workplace, keep: Path | None) -> Counter[str]:
    """The counts of one command after at least so many ends."""
    drawn = random.Random(f"{seed} {name}")
    command = COMMANDS[name]
    counts: Counter[str] = Counter({"ended": 0} | dict.fromkeys(FAULTS, 0))
    reference = work.fresh()
    started = time.monotonic()
    if (status := wait(start(command.words, reference), ALONE_S)) != 0:
        raise click.ClickException(f"{name}: ended with {status}: {log(reference)[-2000:]}")
    lasts_s = time.monotonic() - started
    while counts["ended"] < kills:
        folder = work.fresh()
        before = +counts
        _chain(command, folder, lasts_s, drawn, counts)
        if not counts["stuck"] > before["stuck"]:
            counts["different"] += command.result(folder) != command.result(reference)
            counts["left over"] += _names(folder) != _names(reference)
        if keep and any(counts[fault] > before[fault] for fault in FAULTS):
            shutil.copytree(folder, keep / f"{name}-{work.number}", dirs_exist_ok=True)
        click.echo(f"{name}: {dict(counts)}", err=True)
        shutil.rmtree(folder)
    return counts


def _chain(
    command: Command, folder: Path, lasts_s: float, drawn: random.Random, counts: Counter[str]
) -> None:
    """Start, end and start again, one to three times, then let it finish."""
    words = command.words
    for _ in range(drawn.randint(1, 3)):
        child = start(words, folder)
        time.sleep(drawn.uniform(0.0, lasts_s))
        sent = drawn.choice(SIGNALS)
        os.kill(child, sent)
        status = wait(child, PATIENCE_S)
        counts["ended"] += 1
        counts[sent.name] += 1
        faults = {
            "hang": status is None,
            "status": status not in (None, 0, -sent, 128 + sent),
            "orphan": any_left(child),
            "traceback": "Traceback" in log(folder),
        }
        _count(faults, counts, f"{words} ended by {sent.name} with {status}", folder)
        again = drawn.choice(command.again)
        if command.again != ("",) and (status == 0 or (not again and _is_made(command, folder))):
            again = "--overwrite"  # without it, what is finished is refused
        words = (*command.words, *([again] if again else []))
    status = wait(start(words, folder), ALONE_S)
    faults = {
        "hang": status is None,
        "stuck": status not in (None, 0),
        "traceback": "Traceback" in log(folder),
    }
    _count(faults, counts, f"{words} left alone ended with {status}", folder)


def _count(faults: Mapping[str, bool], counts: Counter[str], what: str, folder: Path) -> None:
    """Count what went wrong and show what the command printed: the next one overwrites it."""
    counts.update(faults)
    if any(faults.values()):
        click.echo(f"{what}, having printed:\n{log(folder)[-5000:]}", err=True)


def _is_made(command: Command, folder: Path) -> bool:
    """Whether the output is there: a kill after the last rename comes too late to prevent it."""
    return (folder / command.words[command.words.index("--out") + 1]).exists()


def _import_all() -> None:
    """What the commands would spend seconds on; nothing is computed, so that no thread is there at a fork."""
    import torch

    import vl2v_deploy.benchmarking.judge.judge
    import vl2v_deploy.benchmarking.report.files
    import vl2v_deploy.benchmarking.run
    import vl2v_deploy.cli.main
    import vl2v_deploy.distillation.report
    import vl2v_deploy.distillation.run
    import vl2v_deploy.exporting.run
    import vl2v_deploy.models.teacher.open_clip  # noqa: F401

    torch.set_num_threads(1)


def _make_base(base: Path) -> None:
    """A tiny recipe with its images, teacher and weights, a finished run of it, and a bundle of that."""
    base.mkdir(parents=True)
    # In a process of its own, since making weights computes.
    words = "import sys; from pathlib import Path; from tests.helpers import domain_folders, tiny; "
    words += "base = Path(sys.argv[1]); data = domain_folders.make_domain_folder(base / 'data'); "
    words += "tiny.write_recipe(base, data).rename(base / 'recipe.yaml')"
    subprocess.run([sys.executable, "-c", words, str(base)], cwd=ROOT, check=True)
    recipe = base / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(f"{base}/", ""), encoding="utf-8")
    for name, places in {"distill": {"run": "made"}, "export": {"exported": "bundle"}}.items():
        words_of = [places.get(word, word) for word in COMMANDS[name].words]
        if (status := wait(start(words_of, base), ALONE_S)) != 0:
            raise click.ClickException(f"{name}: ended with {status}: {log(base)[-2000:]}")
    for used in ("cache", "log"):
        path = base / used
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _names(folder: Path) -> list[str]:
    """Every file and folder there, but of the cache only what lies there while something is under way."""
    cache = folder / "cache"
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_relative_to(cache)]
    under_way = [
        path.suffix for path in cache.rglob("*") if path.suffix in (".journal", ".unfinished", ".tmp")
    ]
    return sorted(names) + under_way


if __name__ == "__main__":
    main()
