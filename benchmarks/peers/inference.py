"""From JPEG bytes to label: what people do with timm today against our bundle, same weights, same images.

    python benchmarks/peers/inference.py --quick             three minutes on two cores
    python benchmarks/peers/inference.py                     writes benchmarks/results
    python benchmarks/peers/inference.py --profile           also says where our client's time goes

A CNN and a ViT at 224 px, batch 1, on the processor, photographs of two sizes. All engines are alive at once,
each in a process of its own with the same number of threads, and take turns, as in
benchmarking/measure/rounds.py. What the peers do stands in benchmarks/peers/inference_engines.py, how one set
of weights comes to all of them in same_weights.py.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, TaskID

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.inference_engines import COMMAND
from benchmarks.peers.inference_profile import profile_client
from benchmarks.peers.inference_results import PEERS, explained, size_result, table
from benchmarks.peers.photographs import source_pictures, write_photographs
from benchmarks.peers.result_file import git_commit, write_report
from benchmarks.peers.same_weights import PRECISIONS, Prepared, prepare
from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec
from vl2v_deploy.benchmarking.measure.rounds import timed_engines
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions

RESULTS = Path(__file__).resolve().parents[1] / "results"
SCHEMA = 1
CNN, VIT = "tf_efficientnet_lite0", "vit_small_patch16_224"
# Most p50 of ours over that of the best fp32 peer, and over the floor under our client.
GOALS = {CNN: 0.5, VIT: 0.8}
GOAL_OVER_FLOOR = 1.05
SMALL, LARGE = (640, 480), (1920, 1440)
CALIBRATION_PHOTOS, QUICK_CALIBRATION_PHOTOS = 48, 24
CALIBRATION_SEED, TIMED_SEED = 1, 2
SECONDS, ROUNDS, TIMEOUT_S = 60.0, 20, 300.0
QUICK_SECONDS, QUICK_ROUNDS = 12.0, 8
NOTES = (
    "the peers resize and crop as timm evaluates, ours squashes the whole image to a square, so that its "
    "labels may be others; the fp32 peers' labels must be the same",
    "photographs are views of real ones, encoded as JPEG at quality 90, 4:2:0; the large ones are enlarged, "
    "softer than a camera's and thus quicker to decode, to the peers' advantage",
)


def engine_specs(model: Prepared, photographs: Sequence[Path], threads: int) -> list[EngineSpec]:
    """Every engine by the name of its line in the table; see inference_results for what each counts as."""
    common = {
        "threads": threads,
        "images": [str(path) for path in photographs],
        "model": model.name,
        "size_px": model.size_px,
        "state": str(model.state),
        "file": str(model.timm_onnx),
        "bundle": str(model.bundle),
    }
    peers: dict[str, dict[str, Any]] = {
        "torch eager": {"engine": "torch"},
        "torch.compile": {"engine": "torch.compile"},
        "timm's ONNX in onnxruntime": {"engine": "onnxruntime"},
        "timm's ONNX in OpenVINO": {"engine": "openvino", "fp32": True},
        "timm's ONNX in OpenVINO, its own precision": {"engine": "openvino", "fp32": False},
    }
    assert peers.keys() == PEERS.keys()
    specs = [EngineSpec(name, {**common, **settings}, COMMAND) for name, settings in peers.items()]
    for precision in PRECISIONS:
        ours = {"engine": "onnxruntime", "precision": precision, "provider": "cpu"}
        specs.append(EngineSpec(f"our bundle, {precision}", {**common, **ours}))
        floor = {"engine": "floor", "precision": precision}
        specs.append(EngineSpec(f"floor of {precision}", {**common, **floor}, COMMAND))
    return specs


def measure_size(
    model: Prepared, photographs: Sequence[Path], threads: int, scenario: Scenario, progress: Progress
) -> dict[str, Any]:
    """One model on photographs of one size: what the report says of it."""
    specs = engine_specs(model, photographs, threads)
    task = progress.add_task(model.name, total=2 * len(specs) + scenario.rounds)
    labels: dict[str, list[int]] = {}

    def first(engine: EngineProcess) -> None:
        request = {"do": "predict", "images": [str(path) for path in photographs]}
        labels[engine.name] = engine.ask(request, "labelling the photographs")["labels"]

    def advance(doing: str) -> None:
        progress.update(task, advance=1, description=f"{model.name}: {doing}")

    with timed_engines(specs, scenario, advance, first) as engines:
        timed = engines.results
    bytes_each = [path.stat().st_size for path in photographs]
    return size_result(timed, labels, GOALS[model.name], GOAL_OVER_FLOOR) | {
        "photographs": len(photographs),
        "mean_bytes": round(sum(bytes_each) / len(bytes_each)),
    }


def measure_all(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    photos: int,
    calibration_photos: int,
    threads: int,
    scenario: Scenario,
    profiled: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Every model on photographs of every size, by name, then by size.

    photos, calibration_photos: how many are timed, of each size, and how many int8 is made with
    """
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        folder = Path(scratch)
        pictures = source_pictures(cache_dir() / "peers")
        for_int8 = write_photographs(
            pictures, folder / "calibration", SMALL, calibration_photos, CALIBRATION_SEED
        )
        timed = {
            _name(size): write_photographs(pictures, folder / _name(size), size, photos, TIMED_SEED)
            for size in sizes
        }
        for name in names:
            task = progress.add_task(name, total=None)

            def advance(doing: str, task: TaskID = task) -> None:
                progress.update(task, description=doing)

            model = prepare(name, folder / name, for_int8, advance)
            progress.remove_task(task)
            models[name] = {"weights": model.weights, "image_size_px": model.size_px, "sizes": {}}
            for size, photographs in timed.items():
                result = measure_size(model, photographs, threads, scenario, progress)
                if profiled:
                    result["profile"] = {
                        precision: profile_client(model.bundle, precision, photographs, threads, TIMEOUT_S)
                        for precision in PRECISIONS
                    }
                models[name]["sizes"][size] = result
    return models


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@click.command()
@click.option("--quick", is_flag=True, help="Small photographs only, fewer samples; three minutes.")
@click.option("--photos", type=click.IntRange(1), default=24, show_default=True, help="Of each size.")
@click.option("--threads", type=click.IntRange(1), help="Of every engine.  [default: usable cores]")
@click.option(
    "--model",
    "names",
    type=click.Choice([CNN, VIT]),
    multiple=True,
    help="One of them only.  [default: both]",
)
@click.option("--profile", "profiled", is_flag=True, help="Say where our client's time goes.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file.  [default: benchmarks/results/inference_cpu-Ncore.json; with --quick none]",
)
def main(
    quick: bool, photos: int, threads: int | None, names: tuple[str, ...], profiled: bool, out: Path | None
) -> None:
    """Compare inference with timm's model in torch, onnxruntime and OpenVINO to that with our bundle."""
    threads = threads or default_threads().count
    seconds, rounds = (QUICK_SECONDS, QUICK_ROUNDS) if quick else (SECONDS, ROUNDS)
    scenario = Scenario(
        batches=(1,), rounds=rounds, samples_per_round=1000, seconds=seconds, timeout_s=TIMEOUT_S
    )
    started = datetime.now(UTC)
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True) as progress:
            models = measure_all(
                names or (CNN, VIT),
                (SMALL,) if quick else (SMALL, LARGE),
                photos,
                QUICK_CALIBRATION_PHOTOS if quick else CALIBRATION_PHOTOS,
                threads,
                scenario,
                profiled,
                progress,
            )
    except VL2VError as error:
        raise click.ClickException(str(error)) from error
    report = {
        "schema": SCHEMA,
        "created": started.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/peers/inference.py", *sys.argv[1:]]),
        "device": describe_device(),
        "threads": threads,
        "versions": package_versions() | openvino_version(),
        "git_commit": git_commit(),
        "goal_over_floor": GOAL_OVER_FLOOR,
        "notes": list(NOTES),
        "models": models,
    }
    path = out or (None if quick else RESULTS / f"inference_cpu-{default_threads().count}core.json")
    if path:
        write_report(report, path)
    show(report, path)
    if wrong := [text for text in explained(report) if text.startswith("WRONG")]:
        raise click.ClickException("; ".join(wrong))


def show(report: Mapping[str, Any], path: Path | None) -> None:
    """The tables on stdout, then what they come to."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # in a log, no line of the table is folded
    for name, model in report["models"].items():
        for size in model["sizes"]:
            console.print(table(report, name, size))
    for line in (*explained(report), *report["notes"]):
        console.print(line, soft_wrap=True, highlight=False)
    if path:
        console.print(f"Written to {path}", soft_wrap=True)


def openvino_version() -> dict[str, str]:
    """OpenVINO's, which the package's own list of versions may leave out."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"openvino": version("openvino")}
    except PackageNotFoundError:
        return {}


if __name__ == "__main__":
    main()
