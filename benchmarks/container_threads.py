"""How long `Student.predict` takes under a CPU quota: one thread a core of the host, our default, one thread.

    python benchmarks/container_threads.py bundles/quickstart

Makes a control group with the quota of one CPU, then of half a CPU, and times each choice of threads inside,
each in a process of its own, in turns. Needs Linux and the right to make a group (root, or a delegated one):
without, it says what is missing and exits with 1. Writes benchmarks/results/container_threads_<device>.json:
mean, percentiles and raw samples.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.bundle import GOLDEN, open_bundle
from vl2v_deploy.client.threads import (
    MAX_V2,
    PERIOD_V1,
    QUOTA_V1,
    cpu_groups,
    default_threads,
    physical_cores,
)
from vl2v_deploy.errors import BenchmarkError, VL2VError
from vl2v_deploy.models.versions import package_versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PERIOD_US = 100_000  # Docker's and Kubernetes's
QUOTAS = (1.0, 0.5)
WARM_UP = 20
# The first argument is the group's list of processes; it is joined before anything is imported.
JOIN = "import os, sys; open(sys.argv.pop(1), 'w').write(str(os.getpid()))\n"
PROGRAM = """
import json
from pathlib import Path
from time import perf_counter
from vl2v_deploy.client import Student

bundle, precision, image, threads, warm_up, count = sys.argv[1:]
encoded = Path(image).read_bytes()
with Student.load(bundle, precision=precision, threads=int(threads) or None) as student:
    samples = []
    for number in range(int(warm_up) + int(count)):
        started = perf_counter()
        student.predict(encoded)
        if number >= int(warm_up):
            samples.append(perf_counter() - started)
    print(json.dumps({"threads": student.runtime.threads, "why": student.runtime.why, "samples": samples}))
"""


@contextmanager
def cpu_group(cpus: float) -> Iterator[Path]:
    """A control group that may use so many CPUs, inside one of this process's own; removed at the end.

    Raises BenchmarkError, with what each hierarchy answered, where none can be made.
    """
    refused = []
    for parent in cpu_groups():
        group = parent / f"vl2v_deploy_{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            refused.append(str(error))
            continue
        try:
            limit(group, cpus)
        except OSError as error:
            refused.append(str(error))
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    raise BenchmarkError(
        "no control group with a CPU quota can be made here "
        f"({'; '.join(refused) or 'this process is in none that has the cpu controller'}): run this as root, "
        "in a container with --privileged, or where systemd delegates the cpu controller"
    )


def limit(group: Path, cpus: float) -> None:
    """Give a new group its quota, in the files of its version of cgroups; OSError where it has neither."""
    quota_us = round(cpus * PERIOD_US)
    if (group / QUOTA_V1).exists():
        (group / PERIOD_V1).write_text(str(PERIOD_US))
        (group / QUOTA_V1).write_text(str(quota_us))
    elif (group / MAX_V2).exists():
        (group / MAX_V2).write_text(f"{quota_us} {PERIOD_US}")
    else:
        raise OSError(f"{group}: its parent does not hand on the cpu controller (cgroup.subtree_control)")


def run_inside(group: Path, program: str, *arguments: str) -> str:
    """What a Python program prints that runs in the group from its first line on.

    Raises BenchmarkError with what it said when it failed.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    ran = subprocess.run(
        [sys.executable, "-c", JOIN + program, str(group / "cgroup.procs"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    if ran.returncode:
        raise BenchmarkError(f"a process in {group} failed: {ran.stderr.strip()}")
    return ran.stdout


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", default="fp32", show_default=True)
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1))
@click.option("--samples", default=100, show_default=True, type=click.IntRange(50), help="In each round.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundle: Path, precision: str, rounds: int, samples: int, out: Path | None) -> None:
    """Time BUNDLE's student in onnxruntime on the CPU under quotas of one CPU and of half a CPU."""
    try:
        opened = open_bundle(bundle)
        with np.load(opened.path / GOLDEN, allow_pickle=False) as golden:
            image = (opened.path / GOLDEN).parent / str(golden["names"][0])
        found = {}
        for cpus in QUOTAS:
            with cpu_group(cpus) as group:
                found[f"{cpus:g}"] = measured(group, (str(bundle), precision, str(image)), rounds, samples)
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/container_threads.py {bundle.name} --precision {precision}",
        "device": describe_device(),
        "load_average": os.getloadavg(),
        "versions": package_versions(),
        "bundle": {
            "backbone": opened.manifest.student.backbone,
            "image_size_px": opened.image_size_px,
            "precision": precision,
        },
        "period_ms": PERIOD_US / 1e3,
        "quota_cpus": found,
    }
    path = out or RESULTS / f"container_threads_cpu-{default_threads().count}core.json"
    text = json.dumps(report, indent=1)
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")
    for quota, choices in found.items():
        for name, said in choices.items():
            times = ", ".join(f"{key} {said[f'{key}_ms']:.1f}" for key in ("p50", "p95", "mean"))
            click.echo(f"{quota} CPU, {name} ({said['threads']}): {times} ms")
    click.echo(f"Written to {path}")


def measured(group: Path, asked: tuple[str, ...], rounds: int, samples: int) -> dict[str, dict[str, Any]]:
    """Times of each choice of threads in the group; each round starts a process for each, one at a time.

    asked: bundle, precision and image, as PROGRAM takes them
    """
    choices = {"one a physical core": physical_cores(), "our default": 0, "one": 1}
    told: dict[str, dict[str, Any]] = {name: {"samples_ms": []} for name in choices}
    for _ in range(rounds):
        for name, threads in choices.items():
            said = json.loads(run_inside(group, PROGRAM, *asked, str(threads), str(WARM_UP), str(samples)))
            told[name] |= {"threads": said["threads"], "why": without_folder(said["why"])}
            told[name]["samples_ms"] += [round(1e3 * seconds, 3) for seconds in said["samples"]]
    for said in told.values():
        p50, p95 = np.percentile(said["samples_ms"], (50, 95)).tolist()
        said |= {"p50_ms": p50, "p95_ms": p95, "mean_ms": float(np.mean(said["samples_ms"]))}
    return told


def without_folder(why: str) -> str:
    """The reason without this machine's path to the group."""
    return re.sub(r"\(/\S*/", "(", why)


if __name__ == "__main__":
    main()
