"""The student's confidence, calibrated on source validation and put into the graph."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from vl2v_deploy.client.answers import Floats, softmax
from vl2v_deploy.client.manifest import Confidence
from vl2v_deploy.exporting.images import Labels, Weights
from vl2v_deploy.method.confidence import LEAST, MOST, abstain_threshold, fit_temperature
from vl2v_deploy.method.metrics import expected_calibration_error

NOT_FITTED = "no temperature was fitted: source validation has too few images, or too easy ones"


def calibrate(
    logits: Floats, labels: Labels, weights: Weights, coverage: float, mean: Literal["domains", "images"]
) -> Confidence:
    """Temperature and threshold for a student's logits (V, K), taken at T = 1, on source validation.

    labels:   (V,)
    weights:  (V,) of the images in every mean over source validation
    coverage: share of source validation that is to be answered, in (0, 1]
    mean:     the recipe's validation_mean, which the weights follow; goes on record
    """
    uncalibrated, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    weight = torch.from_numpy(weights)
    best = fit_temperature(uncalibrated, truth, weight)
    at_bound = not 1.01 / MOST < best < 0.99 / LEAST
    # At a bound the images are all right or all wrong: they do not show how confident to be elsewhere.
    temperature = 1.0 if at_bound else best
    confidence = confidence_of(logits / temperature)
    threshold = abstain_threshold(torch.from_numpy(confidence), coverage, weight)
    answered = confidence >= threshold
    right = logits.argmax(1) == labels

    def error_at(temperature: float) -> float:
        probabilities = (uncalibrated / temperature).softmax(dim=1)
        return expected_calibration_error(probabilities, truth, weights=weight)

    return Confidence(
        temperature=temperature,
        images=len(labels),
        ece_before=error_at(1.0),
        ece_after=error_at(temperature),
        coverage=coverage,
        abstain_below=threshold,
        accuracy_of_answered=float(np.average(right[answered], weights=weights[answered])),
        note=NOT_FITTED if at_bound else "",
        validation_mean=mean,
    )


def confidence_of(logits: Floats) -> npt.NDArray[np.float64]:
    """The largest softmax probability of each row; (N,) of logits (N, K)."""
    return np.asarray(softmax(logits).max(1))
