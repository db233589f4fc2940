"""Confidence that can be believed: temperature scaling, and a threshold under which to abstain.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2; the threshold is that
of selective classification at a coverage (Geifman and El-Yaniv, 2017).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vl2v_deploy.method.zero_shot import zero_shot_logits

# 1/T is looked for between these: beyond them the validation images are all right, or all wrong.
LEAST, MOST = 1e-2, 1e2
# The logit scale is looked for between these; CLIP learns about 100.
LEAST_SCALE, MOST_SCALE = 1.0, 1000.0
HALVINGS = 60


def fit_temperature(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """T > 0 that minimises the mean cross-entropy of softmax(logits / T); found within [0.01, 100].

    The cross-entropy is convex in 1/T; its derivative is E[sum_c p_c z_c - z_y], and its root is bisected.

    logits:  (N, K), N >= 1
    labels:  (N,) class indices
    weights: (N,) of the images in the mean, >= 0; None = all the same

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]] * 4)
    >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)  # 2 / ln 3: three in four are right
    1.82
    """
    return 1.0 / _fit_factor(logits, labels, weights, LEAST, MOST)


def fit_logit_scale(
    image_emb: Tensor, text_emb: Tensor, labels: Tensor, weights: Tensor | None = None
) -> float:
    """s > 0 that minimises the cross-entropy of the zero-shot classifier, softmax(s * cos(I(x), T(c))).

    It is temperature scaling (Guo et al., 2017) of the cosines, s = 1/T; found within [1, 1000]. A classifier
    that is worse than chance gets the least, one that is always right the most.

    image_emb: (N, D) teacher embeddings of labelled images, N >= 1; any norm
    text_emb:  (K, D) zero-shot classifier, L2-normalised
    labels:    (N,) class indices
    weights:   (N,) of the images in the mean, >= 0; None = all the same

    >>> import torch
    >>> images = torch.tensor([[1.0, 0.0]] * 4)
    >>> s = fit_logit_scale(images, torch.tensor([[0.6, 0.8], [0.2, 0.98]]), torch.tensor([0, 0, 0, 1]))
    >>> round(s, 3)  # ln 3 / (0.6 - 0.2): three in four are right
    2.747
    """
    cosines = zero_shot_logits(image_emb, text_emb, 1.0)
    return _fit_factor(cosines, labels, weights, LEAST_SCALE, MOST_SCALE)


def _fit_factor(logits: Tensor, labels: Tensor, weights: Tensor | None, least: float, most: float) -> float:
    """f in [least, most] with the least mean cross-entropy of softmax(f * logits), which is convex in f."""
    if not len(labels):
        raise ValueError("no images to fit a temperature on: labels is empty")
    z, share = logits.double(), shares(weights, len(labels))
    of_label = z.gather(1, labels[:, None])[:, 0]  # (N,)

    def derivative(inverse: float) -> float:
        expected = ((inverse * z).softmax(dim=1) * z).sum(dim=1)  # (N,)
        return (share * (expected - of_label)).sum().item()

    low, high = least, most
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        if derivative(middle) <= 0:  # 0 where every image is right beyond rounding
            low = middle
        else:
            high = middle
    return high


def abstain_threshold(confidence: Tensor, coverage: float, weights: Tensor | None = None) -> float:
    """The confidence under which to abstain, so that `coverage` of these images are answered, in [0, 1].

    confidence: (N,) largest probability of each image, N >= 1
    coverage:   share of the images that are answered, in (0, 1]; of two as near to it, the larger one
    weights:    (N,) of the images in that share, >= 0; None = all the same

    >>> import torch
    >>> abstain_threshold(torch.tensor([0.9, 0.6, 0.8, 0.7], dtype=torch.float64), coverage=0.75)
    0.7
    """
    if not 0.0 < coverage <= 1.0:
        raise ValueError(f"coverage {coverage}: expected a share in (0, 1]")
    ordered, rows = confidence.double().sort(descending=True)
    reached = shares(weights, len(rows))[rows].cumsum(0)  # (N,) by answering so many
    off = ((reached - coverage).abs() * 1e9).round()  # rounding must not decide between equals
    last = (off == off.min()).nonzero()[-1]
    # Down, not to the nearest: the last image that is answered must not fall under its own threshold.
    return math.floor(1e6 * ordered[last].item()) / 1e6


def shares(weights: Tensor | None, images: int) -> Tensor:
    """What each image counts for in a mean; (images,) float64, sum 1. None = each the same.

    >>> shares(None, 2).tolist(), shares(torch.tensor([3.0, 1.0]), 2).tolist()
    ([0.5, 0.5], [0.75, 0.25])
    """
    weights = torch.ones(images) if weights is None else weights
    return weights.double() / weights.double().sum()


def precision_threshold(
    confidence: Tensor, right: Tensor, precision: float, weights: Tensor | None = None
) -> float:
    """The lowest confidence from which on the share of right answers is at least `precision`; inf for none.

    confidence: (N,) largest probability of each image
    right:      (N,) bool, whether the answer is
    precision:  in (0, 1]
    weights:    (N,) of the images in that share, > 0; None = all the same

    >>> import torch
    >>> confidence = torch.tensor([0.9, 0.5, 0.7, 0.6])
    >>> right = torch.tensor([True, False, True, False])
    >>> [round(precision_threshold(confidence, right, share), 2) for share in (1.0, 0.6, 0.5)]
    [0.7, 0.6, 0.5]
    """
    order = confidence.argsort(descending=True, stable=True)
    ordered = confidence[order]
    weight = (torch.ones(len(order)) if weights is None else weights).double()[order]
    # Sums of weights such as 1/3 are off by some 1e-16: that must not refuse a share that is reached exactly.
    share = (weight * right[order]).cumsum(0) / weight.cumsum(0) + 1e-12
    # A threshold takes all images of its confidence, so that only the last of equals can be one.
    last = torch.ones(len(order), dtype=torch.bool)
    last[:-1] = ordered[1:] < ordered[:-1]
    enough = ((share >= precision) & last).nonzero()
    return ordered[enough[-1]].item() if len(enough) else math.inf
