"""What a worker measures: any engine that can be written as these functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.preprocess import Pixels, pixels_from_source

Answer: TypeAlias = tuple[int, float]  # class index, its probability


@dataclass(frozen=True)
class Engine:
    """What is measured: functions that may be called from several threads at once, and facts about them.

    classify:  encoded images -> the label of each and its probability, as an application would call it
    to_tensor: encoded images -> the preprocessed tensor (B, ...) in host memory; it can be indexed by a list
    to_logits: that tensor -> logits (B, K) in host memory; returns when they are there
    facts:     provider (what computes, in words), model_bytes; most_images, where a batch has a limit
    place:     that tensor -> a call without arguments that runs the network once and returns when it is done;
               input and output stay where the engine computes. None = the scope 'session' is not offered
    set_streams: called before it is used by so many threads at once, one at first; None = it needs not know
    """

    classify: Callable[[Sequence[bytes]], Sequence[Answer]]
    to_tensor: Callable[[Sequence[bytes]], Any]
    to_logits: Callable[[Any], npt.NDArray[np.float32]]
    facts: Mapping[str, Any]
    place: Callable[[Any], Callable[[], None]] | None = None
    set_streams: Callable[[int], None] | None = None


def answers_from_logits(logits: npt.NDArray[np.float32]) -> list[Answer]:
    """The label and its probability of each row of logits (B, K).

    >>> answers_from_logits(np.array([[0.0, 0.0], [9.0, 0.0]], np.float32))
    [(0, 0.5), (0, 0.9998766054240137)]
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))  # (B, K)
    probabilities = (shifted / shifted.sum(1, keepdims=True)).max(1)  # (B,)
    return list(zip(logits.argmax(1).tolist(), probabilities.tolist(), strict=True))


def pixels_of(encoded: bytes, settings: Mapping[str, Any]) -> Pixels:
    """An encoded image as the student takes it, the client's way: uint8 (S, S, 3).

    settings: image_size_px and draft, of the bundle
    """
    return pixels_from_source(encoded, int(settings["image_size_px"]), draft=bool(settings["draft"]))
