"""What each command of `make demo` costs: wall and processor seconds, and the processes it starts.

    python benchmarks/demo_parts.py
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/demo_parts.py --out old.json

The commands are those that make would run, in a scratch folder with an empty cache (unless VL2V_DEPLOY_CACHE
names another); installing is left out. Before them, what importing costs: each module in a fresh process, the
least of several. Processor seconds are user and system time of the command and of all that it started and
waited for, so they mean something on a busy machine too; only the benchmark, whose runs last for fixed
seconds, is better read by the wall. The two variables keep torch off AVX-512, a rough stand-in for an older
processor: onnxruntime has no such switch.
Writes benchmarks/results/demo_parts_<device>.json. Linux, since it reads /proc.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.models.versions import package_versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
# What the commands begin with, and what the benchmark's workers do.
IMPORTS = (
    "vl2v_deploy.cli.main",
    "vl2v_deploy.client",
    "vl2v_deploy.distillation.run",
    "vl2v_deploy.exporting.run",
    "vl2v_deploy.benchmarking.run",
    "vl2v_deploy.benchmarking.judge.judge",
    "vl2v_deploy.benchmarking.worker.load_torch",
    "vl2v_deploy.benchmarking.worker.load_onnxruntime",
)
# Environment variables that change how much a command computes.
TOLD = (
    *("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
    "PYTHONDONTWRITEBYTECODE",
)
POLL_S = 0.02


@dataclass(frozen=True)
class Part:
    """What one command took.

    cpu_s:     user and system time of the command and of its descendants
    processes: the command's own and those that it started, as far as they lived 20 ms
    stages:    wall seconds of the stages of distill, from its record
    """

    command: str
    wall_s: float
    cpu_s: float
    processes: int
    stages: dict[str, float]


@dataclass(frozen=True)
class Import:
    """What importing a module takes in a fresh process, Python's own start included."""

    module: str
    cpu_s: float
    modules: int


@click.command()
@click.option("--imports", default=3, show_default=True, type=click.IntRange(0), help="Repetitions of each.")
@click.option("--imports-only", is_flag=True, help="Leave out the demo's commands.")
@click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="For distill, such as fewer steps."
)
@click.option(
    "--run", type=click.Path(exists=True, path_type=Path), help="Take this run instead of distilling."
)
@click.option(
    "--work",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that keeps runs, bundles and reports.  [default: a scratch folder, removed at the end]",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(
    imports: int,
    imports_only: bool,
    settings: tuple[str, ...],
    run: Path | None,
    work: Path | None,
    out: Path | None,
) -> None:
    """Run the demo's commands one after the other and measure each."""
    report: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/demo_parts.py", *map(portable, sys.argv[1:])]),
        "environment": {name: os.environ[name] for name in TOLD if name in os.environ},
        "device": describe_device(),
        "versions": package_versions(),
        "imports": [],
        "parts": [],
    }
    path = out or RESULTS / f"demo_parts_cpu-{default_threads().count}core.json"
    for module in IMPORTS if imports else ():
        one = least_import(module, imports)
        click.echo(f"{one.cpu_s:8.2f} s CPU  {one.modules:5d} modules  import {one.module}")
        report["imports"].append(asdict(one))
    with nullcontext(work) if work else tempfile.TemporaryDirectory() as folder:
        for command in [] if imports_only else demo_commands(settings)[1 if run else 0 :]:
            part = measured(command, scratch(Path(folder), run))
            took = f"{part.wall_s:8.1f} s wall {part.cpu_s:8.1f} s CPU {part.processes:3d} processes"
            click.echo(f"{took}  {part.command}")
            report["parts"].append(asdict(part))
            # After each part: a demo that is stopped has told what it took so far.
            path.write_text(json.dumps(rounded(report), indent=1) + "\n")
    path.write_text(json.dumps(rounded(report), indent=1) + "\n")
    click.echo(f"Written to {path}")


def portable(word: str) -> str:
    """A word of the command line without the folders of this machine.

    >>> portable("/anywhere/parts.json"), portable("--imports")
    ('parts.json', '--imports')
    """
    return Path(word).name if Path(word).is_absolute() else word


def demo_commands(settings: Sequence[str]) -> list[str]:
    """The commands of `make demo` after the installation, as make would run them with this Python.

    settings: of the recipe, put into its command
    """
    bin_folder = Path(sys.executable).parent
    printed = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "FOR_DEMO=", f"BIN={bin_folder}", "demo"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    distill, *others = printed.replace("\\\n", " ").strip().splitlines()
    return [shlex.join([*shlex.split(distill), *(f"--set={setting}" for setting in settings)]), *others]


def scratch(folder: Path, run: Path | None) -> Path:
    """The folder with the repository's inputs in it, so that all outputs are written beside them.

    run: a finished one, which is copied; None = there is none yet
    """
    for name in ("recipes", "benchmarks"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    if run and not (folder / "runs").exists():
        shutil.copytree(run, folder / "runs/quickstart")
    return folder


def measured(command: str, folder: Path) -> Part:
    """Run a command in `folder` and wait for it; BenchmarkError when it fails."""
    environment = {
        **os.environ,
        "VL2V_DEPLOY_CACHE": os.environ.get("VL2V_DEPLOY_CACHE", str(folder / "cache")),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    arguments = shlex.split(command)
    started = perf_counter()
    process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    seen = {process.pid}
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        seen |= descendants(process.pid)
        sleep(POLL_S)
    wall_s = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{command}: exit status {process.returncode}; see its messages above")
    named = shlex.join([Path(arguments[0]).name, *arguments[1:]])
    record = folder / "runs/quickstart/run.json"
    stages = json.loads(record.read_text())["seconds"] if "distill" in arguments else {}
    return Part(named, wall_s, usage.ru_utime + usage.ru_stime, len(seen), stages)


def descendants(pid: int) -> set[int]:
    """Process ids of all that a process has started and that still live."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = {int(child) for child in task.read_text().split()}
        except OSError:  # it has just ended
            continue
        found |= children.union(*map(descendants, children))
    return found


def least_import(module: str, times: int) -> Import:
    """The least of several measurements of an import."""
    return min((one_import(module) for _ in range(times)), key=lambda one: one.cpu_s)


def one_import(module: str) -> Import:
    """An import in a process of its own."""
    program = f"import {module}, sys, time\nmodules = len(sys.modules)\nprint(time.process_time(), modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    cpu_s, modules = ran.stdout.split()
    return Import(module, float(cpu_s), int(modules))


def rounded(value: object) -> object:
    """The same with every number of seconds to the hundredth."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
