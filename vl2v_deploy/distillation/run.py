"""From a recipe to finished run directories: every run of its protocol, trained and evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vl2v_deploy.distillation.evaluate.predictions import (
    Logits,
    RunData,
    asked_of_teacher,
    linear_probe_logits,
    run_data,
    student_logits,
    teacher_logits,
    teacher_probe_logits,
)
from vl2v_deploy.distillation.evaluate.scores import labels_of, loss_and_accuracy
from vl2v_deploy.distillation.parallel import World, first_does, open_world
from vl2v_deploy.distillation.protocol import PlannedRun, is_one_run, planned_runs
from vl2v_deploy.distillation.sources import Sources, open_sources
from vl2v_deploy.distillation.study.training_plot import plot_run
from vl2v_deploy.distillation.train.checkpoint import Checkpointer, Progress, load_checkpoint
from vl2v_deploy.distillation.train.loop import run_stage
from vl2v_deploy.distillation.train.objectives import UNTRAINED, needs_images_of_teacher, stages_of
from vl2v_deploy.distillation.train.stages import TrainingData, align_stage, distill_stage, single_method
from vl2v_deploy.errors import RunError
from vl2v_deploy.models.device import limit_torch_threads
from vl2v_deploy.models.run_directory import RECORD, finish_run, read_record, require_startable, start_run
from vl2v_deploy.models.student import Student, build_student
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, recipe_sha256


def distill_recipe(
    recipe: Recipe, out: Path, *, skip_bad: bool = False, overwrite: bool = False, resume: bool = False
) -> list[Path]:
    """The finished run directories: `out`, or with several methods, targets or trials those inside it.

    With several, a run that is already there from the same recipe and data is not run again.

    resume: go on with interrupted runs from their last checkpoint

    Raises what loading the data, the teacher or the student raises; RunError when a directory is in the way.
    """
    return distill_recipes([(recipe, out)], skip_bad=skip_bad, overwrite=overwrite, resume=resume)


def distill_recipes(
    recipes: Sequence[tuple[Recipe, Path]], *, skip_bad: bool, overwrite: bool, resume: bool
) -> list[Path]:
    """The finished run directories of several recipes, each with the folder of its runs.

    Neighbours with the same teacher share it, the pretrained features and the decoded images.
    """
    limit_torch_threads()
    with open_world() as world:
        finished: list[Path] = []
        sources: Sources | None = None
        for recipe, out in recipes:
            several = len(recipes) > 1 or not is_one_run(recipe)
            if not several:  # a folder in the way is found before anything is loaded
                first_does(world, partial(require_startable, out, overwrite=overwrite, resume=resume))
            elif not is_one_run(recipe) and (out / RECORD).is_file():
                raise RunError(f"{out}: is one run; pass another --out for the runs of this recipe")
            if sources is None or not sources.serve(recipe):
                sources = open_sources(recipe, world, skip_bad=skip_bad)
            for planned in planned_runs(recipe, out, sources.data(recipe.data)[0].domains):
                finished.append(planned.path)
                keep = several and not overwrite
                folder = _begin(planned, sources, keep=keep, overwrite=overwrite, resume=resume)
                if folder is not None:
                    distill_run(planned, sources, folder)
        return finished


def _begin(
    planned: PlannedRun, sources: Sources, *, keep: bool, overwrite: bool, resume: bool
) -> Path | None:
    """The folder in which a run is written until it is whole; None when it is there already and is kept."""
    fingerprint = sources.data(planned.recipe.data)[1]

    def begin() -> Path | None:
        if keep and _is_done(planned, fingerprint, sources.teacher.identity):
            return None
        return start_run(planned.path, planned.recipe, overwrite=overwrite, resume=resume)

    folder: Path | None = first_does(sources.world, begin)
    return folder


def distill_run(planned: PlannedRun, sources: Sources, folder: Path) -> None:
    """Train and evaluate one run; `folder` becomes its directory when all is done."""
    recipe, world = planned.recipe, sources.world
    method = single_method(recipe)
    data = run_data(recipe, sources)
    progress = world.from_first(load_checkpoint(folder) if world.is_first else None)
    if progress is None:
        stage = next(iter(stages_of(method)), "done")
        progress = Progress(data.fingerprint, sources.teacher.identity, stage, 0, {})
    _require_same(progress, data, sources, folder)
    # What a killed process had paid, and this one since it began with this run.
    paid = progress.queries - sources.store.queries
    torch.manual_seed(recipe.seed)
    pretrained = build_student(
        recipe.model_copy(update={"method": "linear_probe"}) if method in UNTRAINED else recipe,
        sources.teacher.embedding_dim,
        len(data.domain_set.classes),
    )
    pretrained.to(sources.device).to(memory_format=torch.channels_last)  # pixels come in that order
    with _timed(progress, "features"):  # before anything is trained: of the pretrained backbone
        probe, weight_decay, probed = linear_probe_logits(pretrained, recipe, sources, data)
    saver = Checkpointer(folder, recipe.checkpoint_every_s, lambda: paid + sources.store.queries)
    student = _trained(pretrained, recipe, sources, data, saver, progress, probe)
    with _timed(progress, "evaluate"):
        taught = teacher_logits(sources, data, data.tested.samples)
        match method:
            case "zero_shot":
                logits = Logits(taught, teacher_logits(sources, data, data.val))
            case "teacher_probe":
                logits = teacher_probe_logits(sources, data)
            case "linear_probe":
                logits = probed
            case _:
                logits = student_logits(pretrained, recipe, sources, data)
    record = _record(planned, sources, data, progress)
    record["accuracy"] = {
        "target": recipe.data.target,
        "student": data.tested.accuracy_by_domain(logits.test),
        "teacher": data.tested.accuracy_by_domain(taught),
        "linear_probe": data.tested.accuracy_by_domain(probed.test),
        "student_source_val": loss_and_accuracy(logits.val, labels_of(data.val))[1],
    }
    record["metrics"] = data.tested.metrics_by_domain(logits.test)
    paid_before = progress.queries
    record["teacher"]["queries"] = paid_before + sum(world.each(paid + sources.store.queries - paid_before))
    record["linear_probe_weight_decay"] = weight_decay
    if world.is_first:
        plot_run(folder, record)
        finish_run(folder, planned.path, student, data.text_emb, record)
    world.from_first(None)  # nobody goes on before the directory is there


def _require_same(progress: Progress, data: RunData, sources: Sources, folder: Path) -> None:
    for what, was, now in (
        ("data", progress.fingerprint, data.fingerprint),
        ("teacher", progress.teacher, sources.teacher.identity),
    ):
        if was != now:
            raise RunError(f"{folder}: was started with other {what}; pass --overwrite to start the run anew")


def _trained(
    student: Student,
    recipe: Recipe,
    sources: Sources,
    data: RunData,
    saver: Checkpointer,
    progress: Progress,
    probe: nn.Linear,
) -> Student | None:
    """`student` as its method leaves it; None for a method that trains none."""
    method = single_method(recipe)
    if method in ("zero_shot", "teacher_probe"):
        return None
    if method == "linear_probe":
        student.head = probe
        return student
    if progress.student:
        student.load_state_dict(progress.student)
    with _timed(progress, "teacher"):
        training = _training_data(recipe, sources, data)
    if progress.stage == "align":
        run_stage(student, align_stage(student, recipe, sources, training), progress, saver, sources.world)
        sources.world.share_weights(student.state_dict())
        progress.stage = "distill"
        _save(student, progress, saver, sources.world)
    if progress.stage == "distill":
        run_stage(student, distill_stage(student, recipe, sources, training), progress, saver, sources.world)
        progress.stage = "done"
        _save(student, progress, saver, sources.world)
    return student


def _save(student: Student, progress: Progress, saver: Checkpointer, world: World) -> None:
    if world.is_first:
        progress.student = student.state_dict()
        saver.save(progress)


def _training_data(recipe: Recipe, sources: Sources, data: RunData) -> TrainingData:
    view_emb = None
    if needs_images_of_teacher(recipe) and recipe.teacher_views != "online":
        view_emb = sources.view_emb(data.train, recipe).to(sources.device)
    return TrainingData(
        domains=data.domains,
        samples=data.train,
        val=data.val,
        oracle=data.oracle,
        text_emb=data.text_emb.to(sources.device),
        view_emb=view_emb,
    )


@contextmanager
def _timed(progress: Progress, name: str) -> Iterator[None]:
    """Adds to the seconds of a part of the run."""
    started = time.perf_counter()
    yield
    progress.seconds[name] = progress.seconds.get(name, 0.0) + time.perf_counter() - started


def _is_done(planned: PlannedRun, fingerprint: str, teacher: str) -> bool:
    run = planned.path
    if not run.exists():
        return False
    record = read_record(run)
    found = record["recipe_sha256"], record["data"]["fingerprint"], record["teacher"]["identity"]
    for what, was, is_now in zip(
        ("recipe", "data", "teacher"),
        found,
        (recipe_sha256(planned.recipe), fingerprint, teacher),
        strict=True,
    ):
        if was != is_now:
            raise RunError(f"{run}: is of another {what}; pass --overwrite to replace it, or another --out")
    return True


def _record(planned: PlannedRun, sources: Sources, data: RunData, progress: Progress) -> dict[str, Any]:
    recipe, domain_set = planned.recipe, data.domain_set
    images = {
        domain: {split: len(domain_set.select({domain}, split)) for split in ("train", "val", "test")}
        for domain in domain_set.domains
    }
    return {
        "format": 2,
        "recipe_sha256": recipe_sha256(recipe),
        "method": recipe.method,
        "trial": planned.trial,
        "seed": recipe.seed,
        "classes": list(domain_set.classes),
        "logit_scale": sources.teacher.logit_scale,
        "embedding_dim": sources.teacher.embedding_dim,
        "selection": "oracle (target)" if data.oracle else "source_val",
        "stages": progress.reports,
        "data": {
            "fingerprint": data.fingerprint,
            "images": images,
            "evaluated": data.tested.images_by_domain(),
            "skipped": list(domain_set.skipped),
        },
        "teacher": {
            "identity": sources.teacher.identity,
            "images": sum(1 for _ in asked_of_teacher(recipe, data)),
            "views": recipe.teacher_views,
        },
        "processes": sources.world.size,
        "seconds": {name: round(seconds, 3) for name, seconds in progress.seconds.items()},
        "versions": package_versions(),
    }
