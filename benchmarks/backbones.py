"""Which of timm's backbones export, whether the files are right, and how fast they are in onnxruntime.

    python benchmarks/backbones.py                 what benchmarks/backbones.txt names and is not measured yet
    python benchmarks/backbones.py xcit_nano_12_p16_224 vit_tiny_patch16_224

Each backbone gets random weights, a projector and a zero-shot classifier, and goes through export's own
converters in a process of its own: fp32, fp16, and int8 calibrated by min-max, each compared with torch on
generated pictures. Whether a graph is right and how fast it is does not depend on weights; what int8 costs in
accuracy does, so here it only tells broken files from sound ones.

Latency is the time of the one thread that computes, at batch 1, each file in turn with tf_efficientnet_lite0
at 224 px in the same process: read the ratio. One JSON line a backbone is appended to
benchmarks/results/backbones.jsonl as soon as it is known, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import torch

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.backbone_trial import PRECISIONS, REFERENCE, measured
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.errors import VL2VError, one_line
from vl2v_deploy.models.versions import package_versions

LIST = Path(__file__).with_suffix(".txt")
RESULT = Path(__file__).parent / "results" / "backbones.jsonl"


@dataclass(frozen=True)
class Limits:
    """Of one backbone. cpu_s: processor time; wall_s: in all; parameters: more are not tried."""

    cpu_s: int
    wall_s: float
    parameters: float


@click.command()
@click.argument("names", nargs=-1)
@click.option("--size", "size_px", type=int, help="Image size for all.  [default: each backbone's own]")
@click.option(
    "--cpu-limit", default=400, show_default=True, help="Seconds of processor time a backbone gets."
)
@click.option("--wall-limit", default=3600.0, show_default=True, help="Seconds a backbone gets in all.")
@click.option("--max-parameters", default=60e6, show_default=True, help="Larger backbones are not tried.")
@click.option("--out", default=RESULT, type=click.Path(path_type=Path), help="JSON lines.")
def main(
    names: tuple[str, ...],
    size_px: int | None,
    cpu_limit: int,
    wall_limit: float,
    max_parameters: float,
    out: Path,
) -> None:
    """Measure NAMES, or what benchmarks/backbones.txt names, but for those that OUT has already."""
    done = {line["backbone"] for line in read_results(out)}
    wanted = [name for name in names or listed() if name not in done]
    limits = Limits(cpu_limit, wall_limit, max_parameters)
    about = {
        "device": describe_device(),
        "versions": {
            name: version
            for name, version in package_versions().items()
            if name in ("python", "torch", "timm", "onnx", "onnxruntime")
        },
    }
    # Its children have all that is imported here from the start, and none of each other's state.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.backbone_trial"])
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(wanted, 1):
            facts = in_own_process(context, name, size_px, limits, Path(scratch))
            line = {
                "backbone": name,
                **facts,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                **about,
            }
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            click.echo(f"{number}/{len(wanted)} {name}: {in_words(facts)}")


def listed() -> list[str]:
    """The backbones of benchmarks/backbones.txt."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def read_results(path: Path) -> list[dict[str, Any]]:
    """What is known of each backbone; a line that an interrupted run left unfinished is cut off the file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def in_words(facts: dict[str, Any]) -> str:
    """What came of a backbone, in a line."""
    if "error" in facts:
        return str(facts["error"])
    found = [f"{name} {facts[name].get('error', 'made')}" for name in PRECISIONS]
    if fast := facts["latency"].get("fp32_to_reference"):
        found.append(f"{fast:.2f} x the time of {REFERENCE}")
    return f"{'; '.join(found)}; {sum(facts['cpu_s'].values()):.0f} s of processor time"


def in_own_process(
    context: Any, name: str, size_px: int | None, limits: Limits, scratch: Path
) -> dict[str, Any]:
    """What `measured` finds, or why it found nothing."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, name, size_px, limits, scratch), daemon=True)
    process.start()
    theirs.close()
    try:
        if ours.poll(limits.wall_s):
            found: dict[str, Any] = ours.recv()
            return found
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return {"error": f"took more than {limits.cpu_s} s of processor time"}
        return {"error": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return {"error": f"took more than {limits.wall_s:g} s"}


def _work(answer: Connection, name: str, size_px: int | None, limits: Limits, scratch: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    torch.set_num_threads(1)
    try:
        answer.send(measured(name, size_px, limits.parameters, scratch))
    except VL2VError as error:
        answer.send({"error": str(error)})
    except Exception as error:  # each backbone has errors of its own, and the next one is to be tried
        answer.send({"error": one_line(error)})


if __name__ == "__main__":
    main()
