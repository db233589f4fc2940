"""Time and peak memory of embed, distill's data path and predict, against the number of images.

    python benchmarks/scale.py bundles/quickstart --counts 1000,10000

The images are EmojiDG's, turned, recoloured and encoded anew, so that no two are the same. The teacher is a
stub, which projects thumbnails onto random directions: what is timed is what this package adds to a teacher.
Each phase runs in a process of its own (see scale_phases.py). The file of the result is continued: what it
holds is kept, and only other counts and phases are measured. Beside it a plot is drawn. Memory is read from
/proc, so it runs on Linux.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scale_phases import FROM_NOTHING, PHASES, make_images
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).resolve().parent / "results"


def _counts(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) >= 500 for part in text.split(",")):
        raise click.BadParameter(f"{text!r}: expected numbers from 500, with commas, such as 1000,10000")
    return sorted({int(part) for part in text.split(",")})


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--counts", default="1000,10000", show_default=True, callback=_counts, metavar="N[,N]")
@click.option(
    "--work", type=click.Path(path_type=Path), help="Where images are made, and kept for the next time."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(bundle: Path, counts: list[int], work: Path | None, out: Path | None) -> None:
    """Measure with BUNDLE's student, on the CPU."""
    path = out or RESULTS / f"scale_cpu-{default_threads().count}core.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"counts": {}}
    report |= {"device": describe_device(), "versions": package_versions(), "bundle": bundle.name}
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            folder = (work or Path(scratch)) / f"{count}"
            for phase in unmeasured(report["counts"].setdefault(str(count), {}), folder):
                images = make_images(folder / "images", count)
                if phase in FROM_NOTHING:
                    shutil.rmtree(folder / "cache", ignore_errors=True)
                click.echo(f"{count:,} images: {phase}", err=True)
                try:
                    measured = run_phase(phase, images, bundle)
                except (VL2VError, subprocess.CalledProcessError) as error:
                    raise click.ClickException(f"{phase} of {count} images: {error}") from error
                created = datetime.now(UTC).isoformat(timespec="seconds")
                report["counts"][str(count)][phase] = measured | {"created": created}
                report["counts"] = _in_order(report["counts"])
                path.write_text(json.dumps(report, indent=1) + "\n")
    plot(report["counts"], path.with_suffix(".svg"))
    click.echo(f"Written to {path} and {path.with_suffix('.svg').name}")


def unmeasured(measured: Mapping[str, Any], folder: Path) -> list[str]:
    """The phases that are still to run, in order; all of them where what those before had left is gone."""
    missing = [phase for phase in PHASES if phase not in measured]
    return missing if (folder / "cache").is_dir() else [*PHASES] if missing else []


def _in_order(counts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Counts ascending, phases as they are run."""
    return {
        count: {phase: counts[count][phase] for phase in PHASES if phase in counts[count]}
        for count in sorted(counts, key=int)
    }


def run_phase(phase: str, images: Path, bundle: Path) -> dict[str, float]:
    """Wall and processor seconds of a phase, and memory in bytes, in a process of its own.

    begin_bytes, peak_bytes: the most that was in memory when the imports were done, and in the end
    """
    environment = os.environ | {"VL2V_DEPLOY_CACHE": str(images.parent / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.scale_phases", phase, str(images), str(bundle.absolute())]
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def an_image_more(counts: dict[str, dict[str, Any]], phase: str, of: str) -> float:
    """What one image more costs, by the two largest counts."""
    few, many = sorted(map(int, counts))[-2:]
    return float((counts[str(many)][phase][of] - counts[str(few)][phase][of]) / (many - few))


def plot(counts: dict[str, dict[str, Any]], file: Path) -> None:
    """Processor seconds and bytes above the start against the number of images, both on logarithmic axes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "scale"  # the same picture for the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in PHASES:
        numbers = sorted(int(number) for number, measured in counts.items() if name in measured)
        rows = [counts[str(number)][name] for number in numbers]
        _line(axes[0], numbers, [row["cpu_s"] for row in rows], name)
        _line(axes[1], numbers, [(row["peak_bytes"] - row["begin_bytes"]) / 1e6 for row in rows], name)
    axes[0].set(xlabel="images", ylabel="processor seconds")
    axes[1].set(xlabel="images", ylabel="peak memory above the start, MB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _line(axis: Any, numbers: Sequence[int], values: Sequence[float], name: str) -> None:
    axis.loglog(numbers, values, marker="o", label=name)


if __name__ == "__main__":
    main()
