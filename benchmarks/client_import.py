"""What `import vl2v_deploy.client` adds to onnxruntime's own import, in fresh processes.

    python benchmarks/client_import.py

Each round starts a process that imports onnxruntime (which imports numpy), one that imports Pillow too, and
one that imports the client and then onnxruntime, which the client itself imports when a student is loaded.
Their order alternates. Writes benchmarks/results/client_import_<device>.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.models.versions import package_versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
IMPORTS = {
    "onnxruntime": "import onnxruntime",
    "onnxruntime and Pillow": "import onnxruntime, PIL.Image",
    "client and onnxruntime": "import vl2v_deploy.client, onnxruntime",
}
GOAL_MS = 50.0


@click.command()
@click.option("--rounds", default=25, show_default=True, type=click.IntRange(5))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(rounds: int, out: Path | None) -> None:
    """Time the imports."""
    samples: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(rounds + 1):  # the first round fills the file system's cache, and is left out
        names = list(IMPORTS) if number % 2 else list(reversed(IMPORTS))
        for name in names:
            took_ms = import_ms(IMPORTS[name])
            if number:
                samples[name].append(took_ms)
    medians = {name: median(values) for name, values in samples.items()}
    added = medians["client and onnxruntime"] - medians["onnxruntime"]
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/client_import.py",
        "device": describe_device(),
        "versions": package_versions(),
        "median_ms": medians,
        "client_adds_ms": added,
        "goal_ms": GOAL_MS,
        "samples_ms": {name: [round(value, 3) for value in values] for name, values in samples.items()},
    }
    path = out or RESULTS / f"client_import_cpu-{default_threads().count}core.json"
    text = json.dumps(report, indent=1)
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")
    for name, value in medians.items():
        click.echo(f"{name}: {value:.1f} ms")
    click.echo(f"the client adds {added:.1f} ms (goal: at most {GOAL_MS:.0f})")
    click.echo(f"Written to {path}")


def import_ms(statement: str) -> float:
    """Milliseconds that a statement takes in a process of its own, without the start of Python."""
    program = (
        "from time import perf_counter\nstarted = perf_counter()\n"
        f"{statement}\nprint(1e3 * (perf_counter() - started))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(ran.stdout)


if __name__ == "__main__":
    main()
