"""The zero-shot classifier of a run: its classes' text embeddings, and the scale of its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vl2v_deploy.data.domains import DomainSet, Sample, spread, validation_weights
from vl2v_deploy.distillation.evaluate.scores import labels_of
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.errors import RunError
from vl2v_deploy.method.confidence import fit_logit_scale
from vl2v_deploy.recipe import Recipe, fits_logit_scale
from vl2v_deploy.terminal import new_console

# One number is fitted: more images would cost more and move it little.
MOST_FITTED = 512


class FittedScale(NamedTuple):
    """s, by which cosines become logits.

    images: how many it was fitted on; None = the teacher's or the recipe's own
    mean:   what the cross-entropy that it minimises is a mean over; None where it was not fitted, or by a
            version that knew images only
    """

    value: float
    images: int | None
    mean: Literal["domains", "images"] | None = None


class ZeroShotClassifier(NamedTuple):
    """text_emb: (K, D) on the CPU, L2-normalised; scale: of its logits."""

    text_emb: Tensor
    scale: FittedScale

    @property
    def of_logits(self) -> tuple[Tensor, float]:
        """What makes logits of image embeddings."""
        return self.text_emb, self.scale.value


def fitting_samples(recipe: Recipe, val: Sequence[Sample]) -> tuple[Sample, ...]:
    """The images of the sources' val split on which the recipe has the logit scale fitted; mostly none."""
    return spread(val, MOST_FITTED) if fits_logit_scale(recipe.teacher) else ()


def zero_shot_classifier(
    recipe: Recipe,
    sources: Sources,
    domain_set: DomainSet,
    train: Sequence[Sample],
    val: Sequence[Sample],
    before: FittedScale | None,
) -> ZeroShotClassifier:
    """The classifier of a run of one target.

    train, val: of the sources
    before:     the scale that an interrupted run began with; None at the start
    """
    text_emb = sources.text_emb(recipe, domain_set)
    if before is not None:
        return ZeroShotClassifier(text_emb, before)
    if not fits_logit_scale(recipe.teacher):
        assert sources.logit_scale is not None  # open_sources saw to it
        return ZeroShotClassifier(text_emb, FittedScale(sources.logit_scale, None))
    samples, image_emb = _answered(recipe, sources, train, val)
    weights = torch.tensor(validation_weights(samples, recipe.validation_mean))
    fitted = fit_logit_scale(image_emb, text_emb, labels_of(samples), weights)
    scale = FittedScale(fitted, len(samples), recipe.validation_mean)
    if sources.world.is_first:
        new_console(stderr=True).print(
            f"Logit scale fitted on {scale.images} images of the sources: s = {scale.value:.4g}."
        )
    return ZeroShotClassifier(text_emb, scale)


def _answered(
    recipe: Recipe, sources: Sources, train: Sequence[Sample], val: Sequence[Sample]
) -> tuple[Sequence[Sample], Tensor]:
    """The images to fit on, and I(x) of each; bought, or where the recipe forbids to ask, those held.

    The teacher was not trained on any of them: where no val image is held, training images do as well.

    Raises RunError when nothing is held that could be fitted on.
    """
    description = "Teacher sees val images, for the logit scale"
    samples = fitting_samples(recipe, val)
    if recipe.missing_embeddings == "buy":
        return samples, sources.image_emb(samples, description)
    for candidates in (val, train):
        held = sources.held(candidates, recipe, views=0)
        chosen = spread(_where(candidates, held), MOST_FITTED)
        if chosen:
            return chosen, sources.image_emb(chosen, description)
    if isinstance(recipe.teacher_views, int) and recipe.teacher_views > 0:
        held = sources.held(train, recipe, recipe.teacher_views)
        chosen = spread(_where(train, held), MOST_FITTED)
        if chosen:
            return chosen, sources.view_emb(chosen, recipe)[:, 0]
    raise RunError(
        "teacher.logit_scale: fit needs teacher embeddings of some source images, and the store holds none; "
        "buy some with `vl2v-deploy teacher embed RECIPE --budget N`, or set teacher.logit_scale to a number"
    )


def _where(samples: Sequence[Sample], held: Tensor) -> list[Sample]:
    return [sample for sample, is_held in zip(samples, held.tolist(), strict=True) if is_held]
