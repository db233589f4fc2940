"""How good predictions are. Accuracy is the paper's metric; tables add macro-F1 and ECE."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(labels: Tensor, predicted: Tensor) -> float:
    """Share of predictions that are right, in [0, 1].

    labels, predicted: (N,) class indices, N >= 1

    >>> accuracy(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 0, 2]))
    0.75
    """
    _require_images(labels)
    return (labels == predicted).double().mean().item()


def per_class_accuracy(labels: Tensor, predicted: Tensor, classes: int) -> list[tuple[int, float | None]]:
    """(images, accuracy in [0, 1]) of each class; accuracy None where no image is of the class.

    labels, predicted: (N,) class indices
    classes:           K

    >>> per_class_accuracy(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), classes=3)
    [(2, 0.5), (1, 1.0), (0, None)]
    """
    images = torch.bincount(labels, minlength=classes).tolist()
    right = torch.bincount(labels[labels == predicted], minlength=classes).tolist()
    return [(n, hits / n if n else None) for n, hits in zip(images, right, strict=True)]


def macro_f1(labels: Tensor, predicted: Tensor, classes: int) -> float:
    """Mean of the classes' F1 = 2 TP / (2 TP + FP + FN), in [0, 1]; every class weighs the same.

    A class that is neither a label nor predicted has no F1 and is left out of the mean; one that is only
    predicted, or never, counts as 0.

    labels, predicted: (N,) class indices, N >= 1
    classes:           K

    >>> macro_f1(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), classes=3)  # (4 / 5 + 0) / 2
    0.4
    """
    _require_images(labels)
    right = torch.bincount(labels[labels == predicted], minlength=classes).double()  # (K,) TP
    touched = torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)
    seen = touched > 0  # 2 TP + FP + FN = labels of the class + predictions of it
    return (2 * right[seen] / touched[seen]).mean().item()


def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, bins: int = 15, weights: Tensor | None = None
) -> float:
    """Mean distance of confidence from accuracy, in [0, 1] (ECE; Guo et al. 2017, equation 3).

    Images are put by their largest probability into equal bins (0, 1/M], ..., (1 - 1/M, 1]; the distance of
    a bin's accuracy from its mean confidence weighs by its share of the images.

    probabilities: (N, K) softmax, N >= 1
    labels:        (N,) class indices
    bins:          M
    weights:       (N,) of the images in every mean, >= 0; None = all the same

    >>> expected_calibration_error(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
    0.25
    """
    _require_images(labels)
    confidence, predicted = probabilities.double().max(dim=-1)  # (N,)
    return calibration_error(confidence, predicted == labels, bins, weights)


def calibration_error(
    confidence: Tensor, hits: Tensor, bins: int = 15, weights: Tensor | None = None
) -> float:
    """`expected_calibration_error` where only the largest probability of each image is at hand.

    confidence: (N,) float64, largest probability of each image, N >= 1
    hits:       (N,) whether each image was right
    bins:       M
    weights:    (N,) of the images in every mean, >= 0; None = all the same

    >>> calibration_error(torch.tensor([0.75, 0.75]).double(), torch.tensor([True, False]))
    0.25
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    places = torch.bucketize(confidence, edges[1:-1])  # (N,) an edge belongs to the bin below it
    excess = hits.double() - confidence  # (N,)
    total = float(len(hits))
    if weights is not None:
        excess, total = excess * weights.double(), weights.double().sum().item()
    by_bin = torch.zeros(bins, dtype=torch.float64, device=excess.device).index_add(0, places, excess)
    return (by_bin.abs().sum() / total).item()


def _require_images(labels: Tensor) -> None:
    if not len(labels):
        raise ValueError("no images to measure on: labels is empty")
