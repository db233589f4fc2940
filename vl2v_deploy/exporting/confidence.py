"""The student's confidence, calibrated on source validation and put into the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vl2v_deploy.exporting.images import Labels
from vl2v_deploy.exporting.precision.parity import Floats
from vl2v_deploy.method.confidence import LEAST, MOST, abstain_threshold, fit_temperature
from vl2v_deploy.method.metrics import expected_calibration_error

NOT_FITTED = "no temperature was fitted: source validation is too few or too easy images to tell one"


@dataclass(frozen=True)
class Confidence:
    """How confidence was calibrated; all of source validation, on which it was fitted.

    temperature:          T by which the graph divides its logits
    images:               of source validation
    ece_before, ece_after: expected calibration error with T = 1 and with T
    coverage:             share of the images that is answered
    abstain_below:        confidence under which the student abstains
    accuracy_of_answered: accuracy on the images that are answered
    note:                 what a reader must know, or nothing
    """

    temperature: float
    images: int
    ece_before: float
    ece_after: float
    coverage: float
    abstain_below: float
    accuracy_of_answered: float
    note: str = ""


def calibrate(logits: Floats, labels: Labels, coverage: float) -> Confidence:
    """Temperature and threshold for a student's logits (V, K), taken at T = 1, on source validation.

    labels:   (V,)
    coverage: share of source validation images that shall be answered, in (0, 1]
    """
    uncalibrated, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    best = fit_temperature(uncalibrated, truth)
    at_bound = not 1.01 / MOST < best < 0.99 / LEAST
    # At a bound the images are all right or all wrong: they say nothing of how sure to be elsewhere.
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
    values: npt.NDArray[np.float64] = torch.from_numpy(logits).double().softmax(dim=1).amax(dim=1).numpy()
    return values
