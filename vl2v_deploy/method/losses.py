"""The losses that train a student. Source: VL2V-ADiP, Align and Distill, and the baselines of its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vl2v_deploy.method.rise import LanguageGuidance, absolute_distance, relative_distance
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.recipe import BaselineRecipe, RiseRecipe


class StudentOutput(NamedTuple):
    """What a student computes for a batch; None where it has no such part.

    projected:    (B, D) in the teacher's embedding space, any norm
    class_logits: (B, K) of a trained linear head
    """

    projected: Tensor | None
    class_logits: Tensor | None


@dataclass(frozen=True)
class Targets:
    """What a batch is taught.

    labels:      (B,) class indices; anything where an image has no label
    image_emb:   (B, D) the teacher's embedding of each image; None where the method does not need it,
                 anything in the row of an image of which there is none
    text_emb:    (K, D) the zero-shot classifier
    logit_scale: s of the teacher
    labelled:    (B,) bool, whether each image has a label; None = all
    embedded:    (B,) bool, whether there is a teacher embedding of each image; None = of all
    guidance:    for the method that learns from texts of its own; else None
    """

    labels: Tensor
    image_emb: Tensor | None
    text_emb: Tensor
    logit_scale: float
    labelled: Tensor | None = None
    embedded: Tensor | None = None
    guidance: LanguageGuidance | None = None


def image_weights(image_weight: float, labelled: Tensor, embedded: Tensor) -> Tensor:
    """lambda of each image: 1 where it has no label, 0 where it has no teacher embedding; (B,).

    What one term loses the other gains, so that every image weighs the same. No image lacks both.

    image_weight: lambda of the stage, for images that have both
    labelled:     (B,) bool, whether each image has a label
    embedded:     (B,) bool, whether there is a teacher embedding of each image

    >>> import torch
    >>> image_weights(0.25, torch.tensor([True, True, False]), torch.tensor([True, False, True])).tolist()
    [0.25, 0.0, 1.0]
    """
    return (image_weight * labelled + (~labelled).float()) * embedded


def adip_loss(projected: Tensor, image_emb: Tensor, text_emb: Tensor, image_weight: float | Tensor) -> Tensor:
    """Negative cosine similarity to the teacher (the paper's align and distill loss); scalar in [-1, 1].

    projected:    (B, D) student features after the projector; any norm
    image_emb:    (B, D) teacher embedding of each image
    text_emb:     (B, D) teacher text embedding of each image's class
    image_weight: lambda; 1 = image embeddings only, 0 = text embeddings only; or (B,), one of each image

    >>> import torch
    >>> x = torch.eye(2)
    >>> adip_loss(x, x, -x, image_weight=0.75).item()
    -0.5
    >>> adip_loss(x, x, -x, image_weight=torch.tensor([1.0, 0.0])).item()  # (-1 + 1) / 2
    -0.0
    """
    to_image = F.cosine_similarity(projected, image_emb, dim=-1)  # (B,)
    to_text = F.cosine_similarity(projected, text_emb, dim=-1)  # (B,)
    return -(image_weight * to_image + (1 - image_weight) * to_text).mean()


def erm_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels: empirical risk minimisation, DomainBed's baseline; scalar >= 0, nats.

    class_logits: (B, K) of the student's own head
    labels:       (B,) class indices

    >>> import torch
    >>> erm_loss(torch.zeros(3, 4), torch.tensor([0, 1, 2])).exp().item()
    4.0
    """
    return F.cross_entropy(class_logits, labels)


def kd_loss(
    class_logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    kl_weight: float | Tensor,
) -> Tensor:
    """(1 - w) CE + w T^2 KL(teacher || student), both softened by T (Hinton et al. 2015); scalar >= 0, nats.

    class_logits:   (B, K) of the student's own head
    labels:         (B,) class indices
    teacher_logits: (B, K) zero-shot logits, the teacher's logit scale in them
    temperature:    T > 0; T^2 keeps the gradient's size, which softening divides by T^2
    kl_weight:      w in [0, 1]; 0 = erm_loss; or (B,), one of each image: 1 for an image without a label

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> kd_loss(logits, torch.tensor([0]), logits, temperature=2.0, kl_weight=1.0).item()
    0.0
    """
    student = F.log_softmax(class_logits / temperature, dim=-1)  # (B, K)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)  # (B, K)
    if isinstance(kl_weight, Tensor):
        of_image = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # (B,)
        of_label = F.cross_entropy(class_logits, labels, reduction="none")  # (B,)
        return ((1 - kl_weight) * of_label + kl_weight * temperature**2 * of_image).mean()
    kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - kl_weight) * erm_loss(class_logits, labels) + kl_weight * temperature**2 * kl


def kd_text_loss(
    class_logits: Tensor,
    projected: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    text_emb: Tensor,
    temperature: float,
    kl_weight: float,
    text_weight: float,
) -> Tensor:
    """kd_loss + v * mean(1 - cos(projected, text embedding)), RISE's absolute distance; scalar >= 0.

    class_logits, labels, teacher_logits, temperature, kl_weight: as in kd_loss
    projected:   (B, D) student features after the projector; any norm
    text_emb:    (B, D) teacher text embedding of each image's class
    text_weight: v >= 0; 0 = kd_loss

    >>> import torch
    >>> logits, x = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> kd_text_loss(logits, x, torch.tensor([0]), logits, -x, 1.0, kl_weight=1.0, text_weight=0.5).item()
    1.0
    """
    distilled = kd_loss(class_logits, labels, teacher_logits, temperature, kl_weight)
    return distilled + text_weight * absolute_distance(projected, text_emb)


def rise_loss(
    output: StudentOutput,
    labels: Tensor,
    teacher_logits: Tensor,
    guidance: LanguageGuidance,
    recipe: RiseRecipe,
) -> Tensor:
    """w1 T^2 KL + w2 CE + w3 (absolute + 10 * relative distance) (Huang et al. 2023, as coded); scalar >= 0.

    output:         of a student whose head is on the projected embedding
    labels:         (B,) class indices
    teacher_logits: (B, K) zero-shot logits by the guidance's text embeddings, the logit scale in them
    recipe:         w1 is kl_weight, w2 = 1 - w1, w3 is text_weight, T is temperature, 10 is relative_weight

    >>> import torch
    >>> x, labels = torch.eye(2), torch.tensor([0, 1])
    >>> texts = LanguageGuidance(x, torch.eye(2).expand(2, 2, 2))
    >>> rise_loss(StudentOutput(x, 9 * x), labels, 9 * x, texts, RiseRecipe(kl_weight=1.0)).item()
    0.0
    """
    projected, text_emb = _projected(output), guidance.text_emb[labels]  # (B, D)
    relative = relative_distance(projected, text_emb, guidance.anchors[labels])
    distance = absolute_distance(projected, text_emb) + recipe.relative_weight * relative
    distilled = kd_loss(_logits(output), labels, teacher_logits, recipe.temperature, recipe.kl_weight)
    return distilled + recipe.text_weight * distance


Loss = Callable[[StudentOutput, Targets, float, "Baselines"], Tensor]


class Baselines(NamedTuple):
    """The recipe's settings of baselines."""

    kd: BaselineRecipe
    rise: RiseRecipe


def _adip(output: StudentOutput, targets: Targets, image_weight: float, _: Baselines) -> Tensor:
    text_emb = targets.text_emb[targets.labels]  # (B, D)
    # There are no image embeddings where lambda is 0: any vector does in a term of weight 0.
    image_emb = text_emb if targets.image_emb is None else targets.image_emb
    weight: float | Tensor = image_weight
    if targets.labelled is not None or targets.embedded is not None:
        every = torch.ones_like(targets.labels, dtype=torch.bool)
        labelled = every if targets.labelled is None else targets.labelled
        embedded = every if targets.embedded is None else targets.embedded
        weight = image_weights(image_weight, labelled, embedded)
    return adip_loss(_projected(output), image_emb, text_emb, weight)


def _erm(output: StudentOutput, targets: Targets, _: float, __: Baselines) -> Tensor:
    return erm_loss(_logits(output), targets.labels)


def _kd(output: StudentOutput, targets: Targets, _: float, baselines: Baselines) -> Tensor:
    baseline = baselines.kd
    kl_weight: float | Tensor = baseline.kl_weight
    if targets.labelled is not None:  # without a label there is the KL term alone
        kl_weight = torch.where(targets.labelled, baseline.kl_weight, 1.0)
    return kd_loss(_logits(output), targets.labels, _teacher_logits(targets), baseline.temperature, kl_weight)


def _kd_text(output: StudentOutput, targets: Targets, _: float, baselines: Baselines) -> Tensor:
    return kd_text_loss(
        _logits(output),
        _projected(output),
        targets.labels,
        _teacher_logits(targets),
        targets.text_emb[targets.labels],
        baselines.kd.temperature,
        baselines.kd.kl_weight,
        baselines.kd.text_weight,
    )


def _rise(output: StudentOutput, targets: Targets, _: float, baselines: Baselines) -> Tensor:
    assert targets.guidance is not None and targets.image_emb is not None  # the method's row says so
    logits = zero_shot_logits(targets.image_emb, targets.guidance.text_emb, targets.logit_scale)
    return rise_loss(output, targets.labels, logits, targets.guidance, baselines.rise)


# By the name that a row of `recipe.METHODS` has for its loss. Each gives the mean loss of a batch, a scalar,
# from (output, targets, lambda of the stage, settings of the baselines).
LOSSES: dict[str, Loss] = {"adip": _adip, "erm": _erm, "kd": _kd, "kd_text": _kd_text, "rise": _rise}


def _logits(output: StudentOutput) -> Tensor:
    assert output.class_logits is not None  # the method's row gives its student a head
    return output.class_logits


def _projected(output: StudentOutput) -> Tensor:
    assert output.projected is not None  # the method's row gives its student a projector
    return output.projected


def _teacher_logits(targets: Targets) -> Tensor:
    assert targets.image_emb is not None  # the method's row says that it needs them
    return zero_shot_logits(targets.image_emb, targets.text_emb, targets.logit_scale)
