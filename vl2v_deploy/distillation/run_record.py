"""The record of a finished run, from what it trained on, predicted and paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from vl2v_deploy.data.copies import Pair
from vl2v_deploy.data.notices import NAMED_PAIRS, names_of
from vl2v_deploy.data.splits import Split
from vl2v_deploy.distillation.evaluate.predictions import Predictions, RunData, asked_of_teacher
from vl2v_deploy.distillation.evaluate.scores import selection_scores
from vl2v_deploy.distillation.evaluate.zero_shot import FittedScale
from vl2v_deploy.distillation.protocol import PlannedRun
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.distillation.train.checkpoint import Progress
from vl2v_deploy.distillation.train.training_data import training_embeddings
from vl2v_deploy.models.record import ORACLE, SOURCE_VAL, ProtocolFacts, RunRecord
from vl2v_deploy.models.record_parts.data import (
    CopyFacts,
    DataFacts,
    HeldOutFacts,
    TeacherLabels,
    UnlabelledFacts,
)
from vl2v_deploy.models.record_parts.measured import Accuracy, Agreement
from vl2v_deploy.models.record_parts.teacher import TeacherFacts
from vl2v_deploy.models.teacher.classes import prompt_facts
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import (
    HttpRecipe,
    Recipe,
    methods_of,
    protocol_name,
    protocol_settings,
    recipe_sha256,
)


def record_of_run(
    planned: PlannedRun,
    sources: Sources,
    data: RunData,
    scale: FittedScale,
    progress: Progress,
    predicted: Predictions,
    agreement: Agreement | None,
    queries: int,
    by_teacher: TeacherLabels | None,
) -> RunRecord:
    """What run.json says of a run that has been evaluated.

    queries:    what it was billed for, of the ledger
    by_teacher: how many unlabelled images the teacher's label was taken of, and at what confidence
    """
    recipe, teacher, tested = planned.recipe, sources.teacher, data.tested
    [method] = methods_of(recipe)
    return RunRecord(
        recipe_sha256=recipe_sha256(recipe),
        method=method,
        trial=planned.trial,
        seed=recipe.seed,
        classes=data.domain_set.classes,
        logit_scale=scale.value,
        logit_scale_images=scale.images,
        logit_scale_mean=scale.mean,
        embedding_dim=teacher.embedding_dim,
        selection=ORACLE if data.oracle else SOURCE_VAL,
        stages=progress.reports,
        data=_data_facts(data, sources.near_copies(recipe), by_teacher),
        teacher=TeacherFacts(
            identity=teacher.identity,
            images=_images_used(recipe, data, progress, predicted, agreement),
            views=recipe.teacher_views,
            queries=queries,
            training=training_embeddings(recipe, data, progress.embedded),
            terms=recipe.teacher.terms if isinstance(recipe.teacher, HttpRecipe) else None,
        ),
        processes=sources.world.size,
        seconds={name: round(seconds, 3) for name, seconds in progress.seconds.items()},
        versions=package_versions(),
        accuracy=Accuracy(
            target=recipe.data.target,
            student=tested.accuracy_by_domain(predicted.method.test),
            teacher=tested.accuracy_where(predicted.teacher, predicted.answered),
            linear_probe=tested.accuracy_by_domain(predicted.probe.logits.test),
            student_source_val=selection_scores(predicted.method.val, data.val, recipe)[1],
        ),
        metrics=tested.metrics_by_domain(predicted.method.test),
        linear_probe_weight_decay=predicted.probe.weight_decay,
        prompts=prompt_facts(teacher, sources.prompts(recipe, data.domain_set)),
        agreement=agreement,
        protocol=ProtocolFacts(
            name=protocol_name(recipe),
            settings={setting.field: setting.used for setting in protocol_settings(recipe)},
        ),
    )


def _images_used(
    recipe: Recipe, data: RunData, progress: Progress, predicted: Predictions, agreement: Agreement | None
) -> int:
    """How many images the run used teacher embeddings of."""
    if predicted.answered is None:
        return len({(sample.path, views) for sample, views in asked_of_teacher(recipe, data)})
    trained = 0 if progress.embedded is None else int(progress.embedded.sum())
    compared = 0 if agreement is None else agreement.images
    return trained + int(predicted.answered.sum()) + compared


def _data_facts(data: RunData, near: Sequence[Pair], by_teacher: TeacherLabels | None) -> DataFacts:
    domain_set = data.domain_set
    copies = domain_set.copies
    return DataFacts(
        fingerprint=data.fingerprint,
        images={
            domain: {split: len(domain_set.select({domain}, split)) for split in get_args(Split)}
            for domain in domain_set.domains
        },
        evaluated=data.tested.images_by_domain(),
        skipped=domain_set.skipped,
        unlabelled=_unlabelled_facts(data, by_teacher),
        held_out=_held_out_facts(data),
        unused=domain_set.unused,
        classes={
            domain: len(domain_set.classes) - len(domain_set.lacking.get(domain, ()))
            for domain in domain_set.domains
        },
        copies=CopyFacts(
            images=copies.images,
            two_labels=copies.two_labels,
            held_out=copies.held_out,
            allowed=copies.allowed,
            near=len(near),
            near_pairs=tuple(names_of(domain_set, pair) for pair in near[:NAMED_PAIRS]),
        ),
    )


def _held_out_facts(data: RunData) -> HeldOutFacts | None:
    if not data.held_out.samples:
        return None
    return HeldOutFacts(
        images=len(data.held_out.samples),
        of_target=data.held_out_of_target,
        fingerprint=data.held_out.fingerprint,
    )


def _unlabelled_facts(data: RunData, by_teacher: TeacherLabels | None) -> UnlabelledFacts | None:
    unlabelled = data.unlabelled
    if not unlabelled.samples:
        return None
    return UnlabelledFacts(
        images=len(unlabelled.samples),
        sources=unlabelled.counts(),
        of_target=data.of_target,
        fingerprint=unlabelled.fingerprint,
        duplicates=unlabelled.duplicates,
        skipped=unlabelled.skipped,
        by_teacher=by_teacher,
    )
