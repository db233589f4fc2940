"""RISE: what a student learns from texts. Source: Huang et al., A Sentence Speaks a Thousand Images, 2023."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LanguageGuidance(NamedTuple):
    """The text embeddings that RISE learns from, L2-normalised.

    text_emb: (K, D), of each class by RISE's own templates
    anchors:  (K, A, D), of each class in each of A domains
    """

    text_emb: Tensor
    anchors: Tensor

    def to(self, device: torch.device) -> LanguageGuidance:
        """The same on another device."""
        return LanguageGuidance(self.text_emb.to(device), self.anchors.to(device))


def absolute_distance(projected: Tensor, text_emb: Tensor) -> Tensor:
    """Mean of 1 - cos(student, text embedding of the class); scalar in [0, 2].

    projected: (B, D) student features after the projector; any norm
    text_emb:  (B, D) of each image's class

    >>> absolute_distance(torch.eye(2), 3 * torch.eye(2)).item()
    0.0
    """
    return (1 - F.cosine_similarity(projected, text_emb, dim=-1)).mean()


def relative_distance(projected: Tensor, text_emb: Tensor, anchors: Tensor) -> Tensor:
    """How far the student lies otherwise between the domains than its class's text does; scalar >= 0.

    Mean square difference, over images and anchors, of the two softmaxes over the cosines to the anchors.

    projected: (B, D) student features after the projector; any norm
    text_emb:  (B, D) of each image's class
    anchors:   (B, A, D) of each image's class in A domains

    >>> x, anchors = torch.eye(2), torch.eye(2).expand(2, 2, 2)
    >>> relative_distance(x, x, anchors).item(), round(relative_distance(x, x.flip(0), anchors).item(), 4)
    (0.0, 0.2136)
    """

    def among_anchors(embedding: Tensor) -> Tensor:
        return F.cosine_similarity(embedding[:, None], anchors, dim=-1).softmax(dim=-1)  # (B, A)

    return F.mse_loss(among_anchors(projected), among_anchors(text_emb))
