"""What each method minimises, and what of the student it trains. The losses themselves are in method/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vl2v_deploy.method.losses import adip_loss, erm_loss, kd_loss, rise_loss
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.student import Answer, Student, frozen_projection
from vl2v_deploy.recipe import Method, Recipe, StageRecipe

ALIGNED: frozenset[Method] = frozenset({"adip", "image_only", "text_only"})
UNTRAINED: frozenset[Method] = frozenset({"zero_shot", "linear_probe", "teacher_probe"})


@dataclass(frozen=True)
class Targets:
    """What a batch is taught.

    labels:      (B,) class indices
    image_emb:   (B, D) the teacher's embedding of each image; None where it would weigh nothing
    text_emb:    (K, D) the zero-shot classifier
    logit_scale: s of the teacher
    """

    labels: Tensor
    image_emb: Tensor | None
    text_emb: Tensor
    logit_scale: float


def loss_of(recipe: Recipe, stage: StageRecipe, answer: Answer, targets: Targets) -> Tensor:
    """The mean loss of a batch under the recipe's method; scalar."""
    baseline, labels, text_emb = recipe.baseline, targets.labels, targets.text_emb
    # Without the teacher's image embeddings their term weighs nothing, and the text's stand in for them.
    image_emb = text_emb[labels] if targets.image_emb is None else targets.image_emb
    match recipe.method:
        case "erm":
            return erm_loss(_logits(answer), labels)
        case "kd":
            taught = zero_shot_logits(image_emb, text_emb, targets.logit_scale)
            return kd_loss(_logits(answer), labels, taught, baseline.temperature, baseline.kl_weight)
        case "rise":
            taught = zero_shot_logits(image_emb, text_emb, targets.logit_scale)
            return rise_loss(
                _logits(answer),
                _projected(answer),
                labels,
                taught,
                text_emb[labels],
                baseline.temperature,
                baseline.kl_weight,
                baseline.text_weight,
            )
    return adip_loss(_projected(answer), image_emb, text_emb[labels], image_weight(recipe, stage))


def image_weight(recipe: Recipe, stage: StageRecipe) -> float:
    """Lambda of a stage: 1 and 0 are the methods image_only and text_only."""
    match recipe.method:
        case "image_only":
            return 1.0
        case "text_only":
            return 0.0
    return stage.image_weight


def stages_of(method: Method) -> tuple[str, ...]:
    """The training stages of a method, in order."""
    if method in UNTRAINED:
        return ()
    return ("align", "distill") if method in ALIGNED else ("distill",)


def needs_images_of_teacher(recipe: Recipe) -> bool:
    """Whether training asks the teacher about images at all: not where their term weighs nothing."""
    method: Any = recipe.method
    if method in ("kd", "rise"):
        return True
    if method == "erm":
        return False
    return any(image_weight(recipe, getattr(recipe, stage)) > 0 for stage in stages_of(method))


def selects_on_target(recipe: Recipe) -> bool:
    """Whether some stage that the recipe's method runs chooses its weights on the target: an oracle."""
    method: Any = recipe.method
    return any(getattr(recipe, stage).averaging == "oracle" for stage in stages_of(method))


def trained_parameters(student: Student, method: Method, stage: str) -> dict[str, Tensor]:
    """The parameters that a stage trains, by name; all others must stay bit-identical.

    Align: the projector. Distill: the backbone, the projector frozen (METHOD: the three stages), except
    that methods without Align learn their projector or head along with the backbone; self_distill keeps
    the teacher's own projection.
    """
    if stage == "align":
        return {name: p for name, p in student.named_parameters() if name.startswith("projector.")}
    frozen = set(frozen_projection(student)) if method == "self_distill" else set()
    parts = ("backbone.",) if method in ALIGNED else ("backbone.", "projector.", "head.")
    return {n: p for n, p in student.named_parameters() if n.startswith(parts) and n not in frozen}


def _logits(answer: Answer) -> Tensor:
    assert answer.class_logits is not None  # build_student gave this method a head
    return answer.class_logits


def _projected(answer: Answer) -> Tensor:
    assert answer.projected is not None  # build_student gave this method a projector
    return answer.projected
