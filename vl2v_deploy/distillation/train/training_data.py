"""What a run is trained on: its images with and without labels, and the teacher's answers about them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vl2v_deploy.data.domains import Sample, validation_weights
from vl2v_deploy.data.files import kinds_of
from vl2v_deploy.data.sampling import domain_rows
from vl2v_deploy.data.unlabelled import UNLABELLED
from vl2v_deploy.distillation.evaluate.predictions import RunData
from vl2v_deploy.distillation.evaluate.scores import labels_of
from vl2v_deploy.distillation.evaluate.zero_shot import ZeroShotClassifier
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.errors import RunError
from vl2v_deploy.method.confidence import precision_threshold
from vl2v_deploy.method.rise import LanguageGuidance
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.record_parts.data import TeacherLabels
from vl2v_deploy.models.record_parts.teacher import TrainingEmbeddings
from vl2v_deploy.names import listed
from vl2v_deploy.recipe import Recipe, asks_about_training_images, teacher_labels
from vl2v_deploy.terminal import new_console

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained and selected on.

    domains:    the source domains
    samples:    N training images of theirs, then U images without labels
    labels:     (N + U,) class indices on the training device; -1 of an image without a label, its own or the
                teacher's
    rows_of:    for each source domain, its rows in samples
    unlabelled: the rows of images without labels that can be trained on
    val:        images of the sources on which weights are selected
    oracle:     images of the target, on which a stage selects whose averaging is oracle; else empty
    text_emb:   (K, D) zero-shot classifier, on the training device; logit_scale: s of its logits
    view_emb:   (N + U, V, D) of the teacher, on the CPU; None where it is not asked, or online
    embedded:   (N + U,) bool, the samples whose view_emb is the teacher's; None = all
    by_teacher: what the teacher labelled of the images without labels; None where it did not
    guidance:   text embeddings that the method learns from besides, on the training device
    """

    domains: Sequence[str]
    samples: Sequence[Sample]
    labels: Tensor
    rows_of: Sequence[Rows]
    unlabelled: Rows
    val: Sequence[Sample]
    oracle: Sequence[Sample]
    text_emb: Tensor
    logit_scale: float
    view_emb: Tensor | None
    embedded: Tensor | None
    by_teacher: TeacherLabels | None
    guidance: LanguageGuidance | None

    @property
    def labelled(self) -> int:
        """N."""
        return sum(map(len, self.rows_of))


def training_data(
    recipe: Recipe,
    sources: Sources,
    data: RunData,
    classifier: ZeroShotClassifier,
    before: Tensor | None,
) -> TrainingData:
    """The training data of a run, with the teacher's answers about it: bought, or those that are held.

    before: the `embedded` of the interrupted run that goes on; None at the start

    Raises RunError when the store has lost answers that an interrupted run had, or when it holds none about
    images without labels and the recipe forbids to ask.
    """
    samples = (*data.train, *data.unlabelled.samples)
    view_emb = embedded = None
    if asks_about_training_images(recipe) and recipe.teacher_views != "online":
        if recipe.missing_embeddings == "text_term":
            embedded = _embedded(samples, recipe, sources, before)
            view_emb = sources.held_view_emb(samples, embedded, recipe)
        else:
            view_emb = sources.view_emb(samples, recipe)
    if sources.world.is_first:
        _print_images(data, embedded)
    unlabelled = np.arange(len(data.train), len(samples))
    if embedded is not None and len(unlabelled):
        unlabelled = unlabelled[embedded.numpy()[len(data.train) :]]
        if not len(unlabelled):
            raise RunError(
                "the store holds no teacher embedding of the images in data.unlabelled, which have no other "
                "term; buy some with `vl2v-deploy teacher embed`, or set missing_embeddings: buy"
            )
    labels, by_teacher = labels_of(samples), None
    if teacher_labels(recipe) is not None:
        assert view_emb is not None  # the recipe asks ahead where it wants the teacher's labels
        of_unlabelled = view_emb[len(data.train) :]
        found, by_teacher = labels_by_teacher(of_unlabelled, recipe, sources, data, classifier)
        labels[len(data.train) :] = found
    guidance = sources.guidance(recipe, data.domain_set)
    return TrainingData(
        domains=data.domains,
        samples=samples,
        labels=labels.to(sources.device),
        rows_of=domain_rows(data.train, data.domains),
        unlabelled=unlabelled,
        val=data.val,
        oracle=data.oracle,
        text_emb=classifier.text_emb.to(sources.device),
        logit_scale=classifier.scale.value,
        view_emb=view_emb,
        embedded=embedded,
        by_teacher=by_teacher,
        guidance=None if guidance is None else guidance.to(sources.device),
    )


def labels_by_teacher(
    view_emb: Tensor, recipe: Recipe, sources: Sources, data: RunData, classifier: ZeroShotClassifier
) -> tuple[Tensor, TeacherLabels]:
    """The teacher's zero-shot label of each image without one, -1 where it is not sure enough; (U,).

    Sure enough is decided by the recipe's teacher_labels, the share of right labels on the sources' val
    images, which weigh in it as its validation_mean says.

    view_emb: (U, V, D) of the teacher; it labels the mean of an image's views
    """
    precision = recipe.teacher_labels
    assert precision is not None

    def answers(image_emb: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = zero_shot_logits(image_emb, *classifier.of_logits).softmax(dim=1)
        confidence, label = probabilities.max(dim=1)
        return confidence, label

    confidence, label = answers(sources.image_emb(data.val, "Teacher sees the val images"))
    weights = torch.tensor(validation_weights(data.val, recipe.validation_mean))
    threshold = precision_threshold(confidence, label == labels_of(data.val), precision, weights)
    confidence, label = answers(F.normalize(view_emb.mean(dim=1), dim=1))
    sure = confidence >= threshold
    found = label.where(sure, torch.tensor(UNLABELLED))
    facts = TeacherLabels(
        precision=precision, confidence=None if math.isinf(threshold) else threshold, images=int(sure.sum())
    )
    return found, facts


def training_embeddings(recipe: Recipe, data: RunData, embedded: Tensor | None) -> TrainingEmbeddings | None:
    """Of how many training images the run used a teacher embedding; None where its method uses none.

    embedded: (N + U,) bool; None = all
    """
    if not asks_about_training_images(recipe):
        return None
    samples = (*data.train, *data.unlabelled.samples)
    has_one = [True] * len(samples) if embedded is None else embedded.tolist()
    contents = [sample.sha256 for sample, held in zip(samples, has_one, strict=True) if held]
    digest = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    return TrainingEmbeddings(images=len(samples), embedded=len(contents), sha256=digest)


def _embedded(samples: Sequence[Sample], recipe: Recipe, sources: Sources, before: Tensor | None) -> Tensor:
    """The images whose embeddings the run uses: those held at its start, whatever was bought since."""
    assert isinstance(recipe.teacher_views, int)
    held = sources.held(samples, recipe, recipe.teacher_views)
    if before is None:
        return held
    if lost := int((before & ~held).sum()):
        raise RunError(
            f"the embedding store no longer holds {lost} of the {int(before.sum())} training images that "
            "the interrupted run has embeddings of; pass --overwrite to start it again"
        )
    return before


def _print_images(data: RunData, embedded: Tensor | None) -> None:
    """How many images are trained on, where that is not just the sources' training split."""
    console, count = new_console(stderr=True), len(data.train)
    if embedded is not None:
        held = int(embedded[:count].sum())
        console.print(
            f"Teacher embeddings held of {held} of {count} training images; the others are trained with the "
            "text term alone."
        )
    if unlabelled := data.unlabelled.samples:
        held = len(unlabelled) if embedded is None else int(embedded[count:].sum())
        left_out = (
            f", {len(unlabelled) - held} without a teacher embedding left out" if embedded is not None else ""
        )
        of_target = f"; {data.of_target} are of the target domain" if data.of_target else ""
        console.print(f"{held} images without labels are trained on{left_out}{of_target}.")
    if held_out := data.held_out.samples:
        of_target = f"; {data.held_out_of_target} are of the target domain" if data.held_out_of_target else ""
        console.print(
            f"{len(held_out)} images without labels are held out, to measure agreement with the teacher"
            f"{of_target}."
        )
    if unused := data.unlabelled.unused:
        console.print(
            f"data.unlabelled: {len(unused)} file(s) are not used, as they are no images "
            f"({kinds_of(unused)}): {listed(unused)}.",
            soft_wrap=True,
        )
