"""The stages of one run, put together: what each trains, on which batches, and how it is validated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn

from vl2v_deploy.data.augment import Augment
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.sampling import StepBatches
from vl2v_deploy.distillation.evaluate.scores import selection_scores
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.distillation.train.loop import Batch, Stage
from vl2v_deploy.distillation.train.objectives import loss_of, optimizer_of, trained_parameters
from vl2v_deploy.distillation.train.training_data import TrainingData
from vl2v_deploy.method.losses import StudentOutput, Targets
from vl2v_deploy.models.student import Student, predict_logits
from vl2v_deploy.recipe import (
    Recipe,
    StageName,
    StageRecipe,
    asks_about_training_images,
    stages_of,
    unlabelled_per_step,
)


class FrozenBackbone(nn.Module):
    """The student for Align on images: no gradient reaches the backbone."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> StudentOutput:
        with torch.no_grad():
            features = self.student.features(images)
        return self.student.output(features)


def build_stage(
    name: StageName, student: Student, recipe: Recipe, sources: Sources, data: TrainingData
) -> Stage:
    """A stage of the recipe's method, ready to be trained."""
    match name:
        case "align":
            return _align_stage(student, recipe, sources, data)
        case "distill":
            return _distill_stage(student, recipe, sources, data)
        case other:
            assert_never(other)


def _align_stage(student: Student, recipe: Recipe, sources: Sources, data: TrainingData) -> Stage:
    """Align: the projector alone, on features computed once; with online views on a stream of new images."""
    online = recipe.teacher_views == "online"
    if online:
        batches = _image_batches("align", recipe, sources, data)
    else:
        batches = _feature_batches(student, recipe, sources, data)
    selection, parameters = _selection(recipe.align, data), trained_parameters(student, recipe, "align")
    selected = sources.features.of_images(student, recipe, selection).to(sources.device)
    return Stage(
        name="align",
        recipe=stages_of(recipe)["align"],
        parameters=parameters,
        batches=batches,
        model=FrozenBackbone(student) if online else student.output,
        loss=_loss(recipe, "align", sources, data),
        optimizer=optimizer_of(recipe, "align", parameters),
        evaluate=lambda: _scores(student.output(selected), selection, data, recipe),
    )


def _distill_stage(student: Student, recipe: Recipe, sources: Sources, data: TrainingData) -> Stage:
    """Distill, or the one stage of a method without Align: on augmented images."""
    size_px, selection = recipe.student.image_size_px, _selection(recipe.distill, data)
    paths, parameters = [sample.path for sample in selection], trained_parameters(student, recipe, "distill")

    def evaluate() -> tuple[float, float]:
        def logits(images: Tensor) -> Tensor:
            return predict_logits(student(images), data.text_emb, data.logit_scale)

        rows = compute_batched(logits, paths, size_px, sources.device, sources.cache, sources.world)
        return selection_scores(rows, selection, recipe)

    return Stage(
        name="distill",
        recipe=stages_of(recipe)["distill"],
        parameters=parameters,
        batches=_image_batches("distill", recipe, sources, data),
        model=student,
        loss=_loss(recipe, "distill", sources, data),
        optimizer=optimizer_of(recipe, "distill", parameters),
        evaluate=evaluate,
        bf16=recipe.distill.precision == "bf16",
        compile=recipe.distill.compile,
    )


def _loss(
    recipe: Recipe, stage: StageName, sources: Sources, data: TrainingData
) -> Callable[[StudentOutput, Batch], Tensor]:
    labels = data.labels.clamp(min=0)  # (N + U,)
    labelled = embedded = None
    if unlabelled_per_step(recipe, stage):
        labelled = data.labels >= 0
    if data.embedded is not None:
        embedded = data.embedded.to(sources.device)
    scale = data.logit_scale

    def loss(output: StudentOutput, batch: Batch) -> Tensor:
        rows = batch.rows
        targets = Targets(
            labels[rows],
            batch.image_emb,
            data.text_emb,
            scale,
            None if labelled is None else labelled[rows],
            None if embedded is None else embedded[rows],
            data.guidance,
        )
        return loss_of(recipe, stage, output, targets)

    return loss


@torch.no_grad()
def _scores(
    output: StudentOutput, selection: Sequence[Sample], data: TrainingData, recipe: Recipe
) -> tuple[float, float]:
    logits = predict_logits(output, data.text_emb, data.logit_scale)
    return selection_scores(logits.cpu(), selection, recipe)


def _selection(stage: StageRecipe, data: TrainingData) -> Sequence[Sample]:
    return data.oracle if stage.averaging == "oracle" else data.val


def _image_batches(
    name: StageName, recipe: Recipe, sources: Sources, data: TrainingData
) -> Callable[[range], Iterator[Batch]]:
    """Augmented images, this process's share of each step, and the teacher's embeddings of them."""
    views = recipe.teacher_views
    stream = _stream(
        name,
        recipe,
        sources,
        data,
        sources.world,
        # Without teacher embeddings there is no reason to train on the fixed views only.
        views=views if data.view_emb is not None and isinstance(views, int) else 0,
    )
    asks_teacher = asks_about_training_images(recipe)

    def batches(steps: range) -> Iterator[Batch]:
        for made in stream.in_order(steps, recipe.distill.workers):
            images = made.augmented(sources.device)
            rows = made.rows.to(sources.device, non_blocking=True)
            image_emb = None
            if data.view_emb is not None:
                asked = data.view_emb[
                    made.rows, made.views if views else 0
                ]  # (B, D): these rows alone are read
                image_emb = asked.to(sources.device)
            elif asks_teacher:
                image_emb = sources.ask_online(images)
            yield Batch(images, rows, image_emb, stream.whole)

    return batches


def _feature_batches(
    student: Student, recipe: Recipe, sources: Sources, data: TrainingData
) -> Callable[[range], Iterator[Batch]]:
    """The same rows as features of the frozen backbone; every process computes the whole step."""
    stream, device = _stream("align", recipe, sources, data, World(), views=0), sources.device
    used = data.samples if stream.unlabelled else data.samples[: data.labelled]
    features = sources.features.of_views(student, recipe, used).to(device)  # (N or N + U, V, d_s)
    view_emb = data.view_emb

    def batches(steps: range) -> Iterator[Batch]:
        for step in steps:
            rows = torch.from_numpy(stream.rows(step)).to(device)
            # Every view in its turn, shifted by the row so that a step holds different ones.
            view = (rows + step) % features.shape[1]
            image_emb = None if view_emb is None else view_emb[rows.cpu(), view.cpu()].to(device)
            yield Batch(features[rows, view], rows, image_emb, len(rows))

    return batches


def _stream(
    name: StageName, recipe: Recipe, sources: Sources, data: TrainingData, world: World, views: int
) -> StepBatches:
    """The images of each step of a stage.

    world: the processes that share them; views: as StepBatches takes it
    """
    without_labels = unlabelled_per_step(recipe, name)
    return StepBatches(
        samples=data.samples,
        rows_of=data.rows_of,
        per_domain=stages_of(recipe)[name].batch_per_domain,
        augment=Augment(recipe.distill.augmentation, recipe.student.image_size_px),
        seed=recipe.seed,
        cache=sources.cache,
        unlabelled=(data.unlabelled, without_labels) if without_labels else None,
        views=views,
        pin=sources.device.type == "cuda",
        rank=world.rank,
        world=world.size,
    )
