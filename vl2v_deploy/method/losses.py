"""The paper's training loss. Source: VL2V-ADiP, the loss of both stages, Align and Distill."""

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
