"""What a worker measures: any engine that can be written as these functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.images import TRUSTED
from vl2v_deploy.client.preprocess import Pixels, pixels_from_source

Top1: TypeAlias = tuple[int, float]  # class index, its probability


@dataclass(frozen=True)
class Engine:
    """What is measured: functions that may be called from several threads at once, and facts about them.

    classify:  encoded images -> the label of each and its probability, as an application would call it
    to_tensor: encoded images -> the preprocessed tensor (B, ...) in host memory; it can be indexed by a list
    to_logits: that tensor -> logits (B, K) in host memory; returns when they are there
    facts:     provider (what computes, in words), model_bytes; most_images, where a batch has a limit
    place:     that tensor -> a call without arguments that runs the network once and returns when it is done;
               input and output stay where the engine computes. None = the scope 'session' is not offered
    logits: encoded images -> logits (B, K), the way `classify` takes; None = to_tensor, then to_logits
    set_streams: called before so many threads use it at once, with 1 at first; None = not needed
    """

    classify: Callable[[Sequence[bytes]], Sequence[Top1]]
    to_tensor: Callable[[Sequence[bytes]], Any]
    to_logits: Callable[[Any], npt.NDArray[np.float32]]
    facts: Mapping[str, Any]
    place: Callable[[Any], Callable[[], None]] | None = None
    set_streams: Callable[[int], None] | None = None
    logits: Callable[[Sequence[bytes]], npt.NDArray[np.float32]] | None = None


def top1_from_logits(logits: npt.NDArray[np.float32]) -> list[Top1]:
    """The label and its probability of each row of logits (B, K).

    >>> top1_from_logits(np.array([[0.0, 0.0], [9.0, 0.0]], np.float32))
    [(0, 0.5), (0, 0.9998766054240137)]
    """
    return list(zip(logits.argmax(1).tolist(), softmax(logits).max(1).tolist(), strict=True))


def pixels_of(encoded: Sequence[bytes], settings: Mapping[str, Any]) -> Pixels:
    """Encoded images as the student takes them, made by the client: uint8 (B, S, S, 3).

    settings: image_size_px and draft, of the bundle
    """
    size_px, draft = int(settings["image_size_px"]), bool(settings["draft"])
    return np.stack([pixels_from_source(image, size_px, TRUSTED, draft=draft) for image in encoded])
