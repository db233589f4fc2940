"""Metrics by hand, and against loops written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vl2v_deploy.method.metrics import (
    accuracy,
    calibration_error,
    expected_calibration_error,
    macro_f1,
    per_class_accuracy,
)

#           class 0: 2 of 3 right; class 1: 1 of 2; class 2: 0 of 1; class 3: no image, predicted once
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 0, 1, 1, 3, 0])


def test_by_hand() -> None:
    assert accuracy(LABELS, PREDICTED) == 0.5
    assert per_class_accuracy(LABELS, PREDICTED, 5) == [(3, 2 / 3), (2, 0.5), (1, 0.0), (0, None), (0, None)]
    # F1: 2*2/(3+3), 2*1/(2+2), 0/(1+0), 0/(0+1); class 4 has neither image nor prediction
    assert macro_f1(LABELS, PREDICTED, 5) == pytest.approx((2 / 3 + 0.5 + 0 + 0) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_the_harmonic_mean_of_precision_and_recall(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 7, 50), rng.integers(0, 7, 50)
    scores = []
    for k in range(7):
        right = np.sum((labels == k) & (predicted == k))
        if right == 0:
            scores.append(0.0)
            continue
        precision, recall = right / np.sum(predicted == k), right / np.sum(labels == k)
        scores.append(2 * precision * recall / (precision + recall))
    found = macro_f1(torch.from_numpy(labels), torch.from_numpy(predicted), 7)
    assert found == pytest.approx(np.mean(scores))


def test_accuracy_is_the_mean_of_the_classes_weighed_by_their_images() -> None:
    classes = per_class_accuracy(LABELS, PREDICTED, 4)
    assert sum(n * share for n, share in classes if share is not None) / 6 == accuracy(LABELS, PREDICTED)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_ece_is_its_definition(bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(4, 0.5), size=200)
    labels = rng.integers(0, 4, 200)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = expected_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels), bins)
    assert found == pytest.approx(expected, abs=1e-12)


def test_ece_at_a_bins_edge_and_at_its_bounds() -> None:
    # 0.5 belongs to (0, 0.5], 0.75 to (0.5, 1]: were both in one bin, the errors would cancel to 0.125.
    probabilities = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    assert expected_calibration_error(probabilities, torch.tensor([0, 1]), bins=2) == pytest.approx(0.625)
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1


def test_no_images_is_an_error() -> None:
    none = torch.tensor([], dtype=torch.long)
    for measure in (
        lambda: accuracy(none, none),
        lambda: macro_f1(none, none, 2),
        lambda: expected_calibration_error(torch.zeros(0, 2), none),
    ):
        with pytest.raises(ValueError, match="no images"):
            measure()


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower() -> None:
    # 0.8 = 12/15 ends the bin that begins at 11/15 = 0.733: (1 - 0.8) + (0 - 0.75) in one bin of two images
    confidence = torch.tensor([0.8, 0.75], dtype=torch.float64)
    assert calibration_error(confidence, torch.tensor([True, False])) == pytest.approx(abs(0.2 - 0.75) / 2)
