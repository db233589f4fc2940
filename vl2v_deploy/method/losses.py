"""The losses that train a student. Source: VL2V-ADiP, Align and Distill, and the baselines of its tables."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def adip_loss(projected: Tensor, image_emb: Tensor, text_emb: Tensor, image_weight: float) -> Tensor:
    """Negative cosine similarity to the teacher (the paper's align and distill loss); scalar in [-1, 1].

    projected:    (B, D) student features after the projector; any norm
    image_emb:    (B, D) teacher embedding of each image
    text_emb:     (B, D) teacher text embedding of each image's class
    image_weight: lambda; 1 = image embeddings only, 0 = text embeddings only

    >>> import torch
    >>> x = torch.eye(2)
    >>> adip_loss(x, x, -x, image_weight=0.75).item()
    -0.5
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
    class_logits: Tensor, labels: Tensor, teacher_logits: Tensor, temperature: float, kl_weight: float
) -> Tensor:
    """(1 - w) CE + w T^2 KL(teacher || student), both softened by T (Hinton et al. 2015); scalar >= 0, nats.

    class_logits:   (B, K) of the student's own head
    labels:         (B,) class indices
    teacher_logits: (B, K) zero-shot logits, the teacher's logit scale in them
    temperature:    T > 0; T^2 keeps the gradient's size, which softening divides by T^2
    kl_weight:      w in [0, 1]; 0 = erm_loss

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> kd_loss(logits, torch.tensor([0]), logits, temperature=2.0, kl_weight=1.0).item()
    0.0
    """
    student = F.log_softmax(class_logits / temperature, dim=-1)  # (B, K)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)  # (B, K)
    kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - kl_weight) * erm_loss(class_logits, labels) + kl_weight * temperature**2 * kl


def rise_loss(
    class_logits: Tensor,
    projected: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    text_emb: Tensor,
    temperature: float,
    kl_weight: float,
    text_weight: float,
) -> Tensor:
    """kd_loss + v * mean(1 - cos(projected, text embedding)) (RISE, Huang et al. 2023); scalar >= 0.

    class_logits, labels, teacher_logits, temperature, kl_weight: as in kd_loss
    projected:   (B, D) student features after the projector; any norm
    text_emb:    (B, D) teacher text embedding of each image's class
    text_weight: v >= 0; 0 = kd_loss

    >>> import torch
    >>> logits, x = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> rise_loss(logits, x, torch.tensor([0]), logits, -x, 1.0, kl_weight=1.0, text_weight=0.5).item()
    1.0
    """
    to_text = F.cosine_similarity(projected, text_emb, dim=-1)  # (B,)
    distilled = kd_loss(class_logits, labels, teacher_logits, temperature, kl_weight)
    return distilled + text_weight * (1 - to_text).mean()
