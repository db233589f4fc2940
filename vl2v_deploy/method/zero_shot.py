"""Predict: the text embeddings of the classes are the classifier. Source: VL2V-ADiP, stage Predict."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mean_prompt_embedding(embeddings: Tensor) -> Tensor:
    """The zero-shot classifier: one L2-normalised text embedding per class; (K, D).

    Each template's embedding is normalised, then averaged, then normalised again.

    embeddings: (T, K, D) text embeddings of T templates filled with K class names; any norm

    >>> import torch
    >>> mean_prompt_embedding(torch.tensor([[[3.0, 0.0]], [[0.0, 0.5]]])).round(decimals=3)
    tensor([[0.7070, 0.7070]])
    """
    return F.normalize(F.normalize(embeddings, dim=-1).mean(dim=0), dim=-1)  # (K, D)


def zero_shot_logits(embeddings: Tensor, text_emb: Tensor, logit_scale: float) -> Tensor:
    """Scaled cosine similarity to each class's text embedding; (B, K).

    embeddings:  (B, D) image embeddings of teacher or student; any norm
    text_emb:    (K, D) zero-shot classifier, L2-normalised
    logit_scale: s, exp of the teacher's learned temperature; about 100 for CLIP

    >>> import torch
    >>> zero_shot_logits(torch.tensor([[2.0, 0.0]]), torch.eye(2), logit_scale=10.0)
    tensor([[10.,  0.]])
    """
    return logit_scale * F.normalize(embeddings, dim=-1) @ text_emb.T
