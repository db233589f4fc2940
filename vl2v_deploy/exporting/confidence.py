"""The student's confidence, calibrated on source validation and put into the graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from vl2v_deploy.client.answers import Floats, softmax
from vl2v_deploy.client.manifest import Confidence
from vl2v_deploy.exporting.images import Labels
from vl2v_deploy.method.confidence import LEAST, MOST, abstain_threshold, fit_temperature
from vl2v_deploy.method.metrics import expected_calibration_error

NOT_FITTED = "no temperature was fitted: source validation has too few images, or too easy ones"


def calibrate(logits: Floats, labels: Labels, coverage: float) -> Confidence:
    """Temperature and threshold for a student's logits (V, K), taken at T = 1, on source validation.

    labels:   (V,)
    coverage: share of source validation images that are to be answered, in (0, 1]
    """
    uncalibrated, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    best = fit_temperature(uncalibrated, truth)
    at_bound = not 1.01 / MOST < best < 0.99 / LEAST
    # At a bound the images are all right or all wrong: they do not show how confident to be elsewhere.
    temperature = 1.0 if at_bound else best
    confidence = confidence_of(logits / temperature)
    threshold = abstain_threshold(torch.from_numpy(confidence), coverage)
    answered = confidence >= threshold
    return Confidence(
        temperature=temperature,
        images=len(labels),
        ece_before=expected_calibration_error(uncalibrated.softmax(dim=1), truth),
        ece_after=expected_calibration_error((uncalibrated / temperature).softmax(dim=1), truth),
        coverage=coverage,
        abstain_below=threshold,
        accuracy_of_answered=float((logits.argmax(1) == labels)[answered].mean()),
        note=NOT_FITTED if at_bound else "",
    )


def confidence_of(logits: Floats) -> npt.NDArray[np.float64]:
    """The largest softmax probability of each row; (N,) of logits (N, K)."""
    return np.asarray(softmax(logits).max(1))
