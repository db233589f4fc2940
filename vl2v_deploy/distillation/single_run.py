"""One run: from its recipe, data and teacher to its finished directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple, assert_never

import torch
from torch import Tensor

from vl2v_deploy.distillation.evaluate.agreement import agreement_with_teacher
from vl2v_deploy.distillation.evaluate.predictions import (
    LinearProbe,
    RunData,
    asked_of_teacher,
    linear_probe,
    predictions,
    run_data,
)
from vl2v_deploy.distillation.evaluate.zero_shot import (
    FittedScale,
    ZeroShotClassifier,
    zero_shot_classifier,
)
from vl2v_deploy.distillation.meanwhile import bought_meanwhile
from vl2v_deploy.distillation.parallel import first_does
from vl2v_deploy.distillation.protocol import PlannedRun
from vl2v_deploy.distillation.run_record import record_of_run
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.distillation.study.training_plot import plot_run
from vl2v_deploy.distillation.train.checkpoint import DONE, Checkpointer, Progress, load_checkpoint
from vl2v_deploy.distillation.train.loop import run_stage
from vl2v_deploy.distillation.train.objectives import trained_parameters
from vl2v_deploy.distillation.train.stages import build_stage
from vl2v_deploy.distillation.train.training_data import training_data
from vl2v_deploy.errors import RunError
from vl2v_deploy.models.ledger.booking import billed_to_bill
from vl2v_deploy.models.record_parts.data import (
    TeacherLabels,
)
from vl2v_deploy.models.run_directory import finish_run, read_bill
from vl2v_deploy.models.store.billed import images_billed
from vl2v_deploy.models.student import Student, build_student, start_head_as_classifier
from vl2v_deploy.recipe import (
    Recipe,
    method_of,
    stages_of,
)


def distill_run(planned: PlannedRun, sources: Sources, folder: Path) -> None:
    """Train and evaluate one run; `folder` becomes its directory when all is done."""
    bill = first_does(sources.world, lambda: read_bill(folder))
    with billed_to_bill(bill):
        _distill_run(planned, sources, folder, bill)


def _distill_run(planned: PlannedRun, sources: Sources, folder: Path, bill: str) -> None:
    recipe, world = planned.recipe, sources.world
    _billed(bill, recipe, sources)  # an account that cannot be read stops the run now, not after its training
    data = run_data(recipe, sources)
    if recipe.missing_embeddings == "buy":
        sources.store.require_answers([sample for sample, _ in asked_of_teacher(recipe, data)])
    progress = _progress(folder, recipe, sources)
    classifier = _classifier(recipe, sources, data, progress)
    student = _untrained_student(recipe, sources, data)
    with _timed(progress, "features"):
        probe = linear_probe(student, recipe, sources, data)
    saver = Checkpointer(folder, recipe.checkpoint_every_s)
    by_teacher, test_emb = _train(student, probe, recipe, sources, data, classifier, saver, progress)
    with _timed(progress, "evaluate"):
        predicted = predictions(student, probe, recipe, sources, data, classifier, test_emb)
        agreement = agreement_with_teacher(student, recipe, sources, data, classifier)
    queries = progress.queries + _billed(bill, recipe, sources)
    record = record_of_run(
        planned, sources, data, classifier.scale, progress, predicted, agreement, queries, by_teacher
    )
    if world.is_first:
        plot_run(folder, record)
        left = student if record.row.student else None
        finish_run(folder, planned.path, left, classifier.text_emb, record)
    world.from_first(None)  # every process waits until the directory exists


def _billed(bill: str, recipe: Recipe, sources: Sources) -> int:
    return images_billed(bill, recipe.teacher, sources.store.folder)


def _progress(folder: Path, recipe: Recipe, sources: Sources) -> Progress:
    """How far the run is: as its checkpoint says, or at its start.

    Raises RunError when the checkpoint is of other data or another teacher.
    """
    world, teacher = sources.world, sources.teacher.identity
    fingerprint = sources.fingerprint(recipe)
    progress = world.from_first(load_checkpoint(folder) if world.is_first else None)
    if progress is None:
        first = next(iter(stages_of(recipe)), DONE)
        return Progress(fingerprint, teacher, first, 0, {})
    for what, was, now in (
        ("data", progress.fingerprint, fingerprint),
        ("teacher", progress.teacher, teacher),
    ):
        if was != now:
            raise RunError(f"{folder}: was started with other {what}; pass --overwrite to start it again")
    return progress


def _classifier(recipe: Recipe, sources: Sources, data: RunData, progress: Progress) -> ZeroShotClassifier:
    before = FittedScale(*progress.scale) if progress.scale else None
    with _timed(progress, "teacher"):
        made = zero_shot_classifier(recipe, sources, data.domain_set, data.train, data.val, before)
    progress.scale = tuple(made.scale)  # a checkpoint holds no types of ours
    return made


def _untrained_student(recipe: Recipe, sources: Sources, data: RunData) -> Student:
    torch.manual_seed(recipe.seed)
    student = build_student(recipe, sources.teacher.embedding_dim, len(data.domain_set.classes))
    for stage in stages_of(recipe):
        trained_parameters(student, recipe, stage)  # a wrong distill.frozen is told before any work
    return student.to(sources.device).to(memory_format=torch.channels_last)  # pixels come in that order


class FromTeacher(NamedTuple):
    """What the teacher has said until the student is trained.

    labels:   of images without labels; None where it gave none
    test_emb: (M, D) I(x) of the test images; None where they are still to be asked for
    """

    labels: TeacherLabels | None
    test_emb: Tensor | None


def _train(
    student: Student,
    probe: LinearProbe,
    recipe: Recipe,
    sources: Sources,
    data: RunData,
    classifier: ZeroShotClassifier,
    saver: Checkpointer,
    progress: Progress,
) -> FromTeacher:
    """Bring the student, in place, to where its method leaves it."""
    match method_of(recipe).predictor:
        case "student":
            return _train_stages(student, recipe, sources, data, classifier, saver, progress)
        case "probe_of_student":
            student.head = probe.head
        case "teacher" | "probe_of_teacher":
            pass
        case other:
            assert_never(other)
    return FromTeacher(None, None)


def _train_stages(
    student: Student,
    recipe: Recipe,
    sources: Sources,
    data: RunData,
    classifier: ZeroShotClassifier,
    saver: Checkpointer,
    progress: Progress,
) -> FromTeacher:
    """Train the stages that are left, each from the weights that the one before ended with."""
    with _timed(progress, "teacher"):
        training = training_data(recipe, sources, data, classifier, progress.embedded)
        progress.embedded = training.embedded
    if progress.student:
        student.load_state_dict(progress.student)
    elif training.guidance is not None:
        start_head_as_classifier(student, training.guidance.text_emb)
    left = [*dropwhile(lambda stage: stage != progress.stage, stages_of(recipe))]
    with bought_meanwhile(data.tested.samples, recipe, sources) as answers:
        for stage, following in zip(left, [*left[1:], DONE], strict=False):  # left is empty when all are done
            built = build_stage(stage, student, recipe, sources, training)
            run_stage(student, built, progress, saver, sources.world, following)
        with _timed(progress, "teacher"):
            test_emb = answers()
    return FromTeacher(training.by_teacher, test_emb)


@contextmanager
def _timed(progress: Progress, name: str) -> Iterator[None]:
    """Adds to the seconds of a part of the run."""
    started = time.perf_counter()
    yield
    progress.seconds[name] = progress.seconds.get(name, 0.0) + time.perf_counter() - started
