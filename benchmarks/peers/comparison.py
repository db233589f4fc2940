"""The authors' procedure and ours on one recipe, one after the other, and what came of both."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.procedure import PeerOptions, StageName, run_authors
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.distillation.evaluate.scores import test_set
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.student import Student, build_student, predict_logits
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import embed_pixels, prompt_classifier, require_logit_scale
from vl2v_deploy.recipe import Recipe, recipe_sha256, unlabelled_per_step

STAGES: tuple[StageName, ...] = ("align", "distill")


def compare(recipe: Recipe, ours: Mapping[str, Recipe], options: PeerOptions) -> dict[str, Any]:
    """Seconds, speeds, teacher queries and accuracies of the authors' procedure and of each of our recipes.

    Each side starts from files: data checked, models loaded, no embedding known. Its total ends when its
    student is trained and evaluated as it evaluates itself; ours writes a run directory, theirs checkpoints.

    recipe: of the authors' side
    ours:   by the name of its line in the table; the same but for how the teacher is asked, or precision

    Raises what loading the data, the teacher or the student raises.
    """
    authors = run_peer(recipe, options)
    lines = {name: run_ours(line) for name, line in ours.items()}
    return {
        "authors": authors,
        "ours": lines,
        "ratios": {name: _ratios(authors, line) for name, line in lines.items()},
    }


class Meter:
    """What a side takes from here on: seconds by the clock, and of the processors.

    On a machine that others use as well, the second is what a side had to do, whoever made it wait.
    """

    def __init__(self) -> None:
        self.load, self.processors, self.started = os.getloadavg()[0], os.times(), time.perf_counter()

    def read(self) -> dict[str, Any]:
        """total_s; user_s and system_s, worker processes that have ended included; load average before."""
        total_s, before, now = time.perf_counter() - self.started, self.processors, os.times()
        return {
            "total_s": total_s,
            "user_s": now.user + now.children_user - before.user - before.children_user,
            "system_s": now.system + now.children_system - before.system - before.children_system,
            "load_average": self.load,
        }


def processor_s(side: Mapping[str, Any]) -> float:
    """Seconds that a side kept processors busy, the system's work for it included."""
    return float(side["user_s"] + side["system_s"])


def accuracy(student: Student, recipe: Recipe) -> dict[str, Any]:
    """Accuracy of a student, the same way for both sides: by domain, ID (mean of the sources) and OOD.

    On the evaluation images of the recipe's split (data.domains.evaluation_samples).
    """
    device, target = require_device(recipe.device), recipe.data.target
    domain_set = load_domains(recipe.data)
    teacher = load_teacher(recipe.teacher, recipe.device)
    prompts = class_prompts(recipe.prompts, recipe.data, domain_set.classes, domain_set.domains, target)
    text_emb = prompt_classifier(teacher, prompts).to(device)
    tested = test_set(domain_set, target)
    student = student.to(device).eval()

    def logits(images: Tensor) -> Tensor:
        return predict_logits(student(images), text_emb, require_logit_scale(teacher))

    rows = compute_batched(
        logits,
        [sample.path for sample in tested.samples],
        recipe.student.image_size_px,
        device,
        ImageCache(0),
        World(),
    )
    by_domain = tested.accuracy_by_domain(rows)
    return {
        "by_domain": by_domain,
        "images": tested.images_by_domain(),
        "id": fmean(share for domain, share in by_domain.items() if domain != target),
        "ood": by_domain[target],
    }


def run_peer(recipe: Recipe, options: PeerOptions) -> dict[str, Any]:
    """The authors' procedure on a recipe, from files to the averaged student; what it took and came to."""
    with _own_cache():
        _warm_up(recipe)
        meter = Meter()
        student, stages = run_authors(recipe, options)
        return meter.read() | {
            "stages": stages,
            "teacher_images": sum(stage["teacher_images"] for stage in stages.values()),
            "accuracy": accuracy(student, recipe),
        }


def run_ours(recipe: Recipe) -> dict[str, Any]:
    """Our run of a recipe, from files to a finished run directory; what it took and came to."""
    with _own_cache() as folder:
        _warm_up(recipe)
        meter = Meter()
        [path] = distill_recipe(recipe, folder / "run")
        measured = meter.read()
        run = load_run(path)
        sources = len(run.record.accuracy.student) - 1
        stages = {}
        for stage in STAGES:
            report = run.record.stages[stage]
            per_step = getattr(recipe, stage).batch_per_domain * sources + unlabelled_per_step(recipe, stage)
            stages[stage] = report.model_dump(mode="json") | {
                "images": per_step * report.steps,
                "images_per_s": per_step * (report.steps_per_s or 0.0),
            }
        return measured | {
            "recipe_sha256": recipe_sha256(recipe),
            "seconds": run.record.seconds,
            "stages": stages,
            "teacher_images": run.record.teacher.queries,
            "accuracy": accuracy(run.student, recipe),
        }


def _ratios(authors: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast ours is: images/s of each stage, whole time, and the teacher's images."""
    speeds = {
        stage: line["stages"][stage]["images_per_s"] / authors["stages"][stage]["images_per_s"]
        for stage in STAGES
    }
    return speeds | {
        "total": authors["total_s"] / line["total_s"],
        "processor": processor_s(authors) / processor_s(line),
        "teacher_images": authors["teacher_images"] / line["teacher_images"],
    }


def _warm_up(recipe: Recipe) -> None:
    """Data and teacher unpacked, files read, kernels chosen: what the side that happens to be first pays."""
    load_domains(recipe.data)
    teacher = load_teacher(recipe.teacher, recipe.device)
    student = build_student(recipe, teacher.embedding_dim, 2).to(recipe.device)
    size_px = recipe.student.image_size_px
    images = torch.zeros((8, size_px, size_px, 3), dtype=torch.uint8, device=recipe.device)
    projected = student(images).projected
    assert projected is not None
    projected.sum().backward()
    embed_pixels(teacher, images)


@contextmanager
def _own_cache() -> Iterator[Path]:
    """A folder for one side, and an empty cache in it: no embedding was bought by anybody before."""
    before = os.environ.get("VL2V_DEPLOY_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VL2V_DEPLOY_CACHE"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["VL2V_DEPLOY_CACHE"]
            else:
                os.environ["VL2V_DEPLOY_CACHE"] = before
