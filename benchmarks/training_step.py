"""A step of Distill on a processor, with the gradients of `vl2v_deploy.models.depthwise` and without.

    python benchmarks/training_step.py

The quickstart's student at several image sizes, with random weights and pixels, its frozen modules and a
loss of its own outputs: decoding, teacher and evaluation are not in it. Steps of both kinds take turns, so
that drift hits them alike; each ratio is of the medians of one run. Writes
benchmarks/results/training_step_<device>.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import torch

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.distillation.train.objectives import optimizer_of, trained_parameters
from vl2v_deploy.models.depthwise import with_depthwise_gradients
from vl2v_deploy.models.device import limit_torch_threads
from vl2v_deploy.models.student import build_student
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
SIZES_PX = (64, 96, 128, 224)
IMAGES, CLASSES, DIM = 48, 12, 512
WARM_UP, STEPS = 2, 12


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file of the result.")
def main(out: Path | None) -> None:
    """Measure both kinds of steps in turn, at each image size."""
    limit_torch_threads()
    recipe = load_recipe(ROOT / "recipes/quickstart.yaml")
    sizes = {str(size_px): measured(at_size(recipe, size_px)) for size_px in SIZES_PX}
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/training_step.py",
        "device": describe_device(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": package_versions(),
        "threads": torch.get_num_threads(),
        "backbone": recipe.student.backbone,
        "frozen": list(recipe.distill.frozen),
        "images": IMAGES,
        "sizes_px": sizes,
    }
    path = out or ROOT / f"benchmarks/results/training_step_cpu-{default_threads().count}core.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    for size_px, facts in sizes.items():
        click.echo(
            f"{size_px} px: {facts['ours_s']:.3f} s a step, torch's own {facts['torch_s']:.3f} s: "
            f"{facts['times_as_fast']:.2f} times as fast"
        )
    click.echo(f"Written to {path}")


def at_size(recipe: Recipe, size_px: int) -> Recipe:
    """The recipe with another size of images."""
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"image_size_px": size_px})})


def measured(recipe: Recipe) -> dict[str, Any]:
    """Seconds of steps of both kinds, and how many times as fast ours are."""
    steps = {"torch": step_of(recipe, ours=False), "ours": step_of(recipe, ours=True)}
    samples_s: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(WARM_UP + STEPS):
        for kind, step in steps.items():
            started = perf_counter()
            step()
            if number >= WARM_UP:
                samples_s[kind].append(round(perf_counter() - started, 4))
    torch_s, ours_s = (median(samples_s[kind]) for kind in ("torch", "ours"))
    return {
        "torch_s": torch_s,
        "ours_s": ours_s,
        "times_as_fast": round(torch_s / ours_s, 3),
        "samples_s": samples_s,
    }


def step_of(recipe: Recipe, *, ours: bool) -> Callable[[], None]:
    """A function that makes one optimizer step of the student's own copy."""
    torch.manual_seed(0)
    student = build_student(recipe, DIM, CLASSES, weights=False).to(memory_format=torch.channels_last)
    student.requires_grad_(False)
    parameters = trained_parameters(student, recipe, "distill")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = optimizer_of(recipe, "distill", parameters)
    size_px = recipe.student.image_size_px
    images = torch.randint(256, (IMAGES, size_px, size_px, 3), dtype=torch.uint8)
    forward = with_depthwise_gradients(student) if ours else student

    def step() -> None:
        projected = forward(images).projected
        assert projected is not None  # the quickstart's method has a projector
        optimizer.zero_grad()
        projected.square().mean().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
