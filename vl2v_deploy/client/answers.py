"""The student's answer to one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.session import Runtime

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The student's answer to one image.

    label:       the most probable class
    index:       its index in the bundle's classes
    probability: softmax of the logits at `index`, in [0, 1]
    top:         (label, probability) of the most probable classes, falling
    abstained:   the probability is under the bundle's threshold: better not to rely on the label
    runtime:     what answered: execution provider, precision, threads
    logits:      all K of them; None unless asked for
    embedding:   the image's, of D numbers, L2-normalised; None unless asked for
    """

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    abstained: bool
    runtime: Runtime
    logits: tuple[float, ...] | None = None
    embedding: tuple[float, ...] | None = None


def prediction_of(
    row: Floats,
    classes: Sequence[str],
    runtime: Runtime,
    abstains: Callable[[float], bool],
    *,
    top: int,
    logits: bool,
    embedding: Floats | None,
) -> Prediction:
    """The prediction that a row of logits stands for.

    row:       float32 (K,)
    classes:   K names
    runtime:   what answered
    abstains:  whether an answer of this probability is better not relied on
    top:       how many classes `Prediction.top` holds
    logits:    whether `Prediction.logits` holds the row
    embedding: float32 (D,), for `Prediction.embedding`
    """
    probabilities = softmax(row)
    order = np.argsort(-probabilities, kind="stable")[:top]
    first = int(row.argmax())
    probability = float(probabilities[first])
    return Prediction(
        label=classes[first],
        index=first,
        probability=probability,
        top=tuple((classes[i], float(probabilities[i])) for i in order),
        abstained=abstains(probability),
        runtime=runtime,
        logits=tuple(row.tolist()) if logits else None,
        embedding=None if embedding is None else tuple(embedding.tolist()),
    )


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities of logits along the last axis; same shape, sums to 1.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32)).tolist()
    [0.5, 0.5]
    """
    with np.errstate(invalid="ignore"):  # of infinite logits: NaN, on which a student abstains
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))
