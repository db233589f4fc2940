"""A TensorRT or TensorRT-RTX engine of the bundle, through export's own runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.worker.contract import Engine, Top1, pixels_of, top1_from_logits
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.exporting.tensorrt.runner import EngineRunner, filling, open_engine


def load_tensorrt(settings: Mapping[str, Any]) -> Engine:
    """The engine of settings plan, image_size_px and draft.

    A batch below the profile's minimum is filled up; its time includes that. A call that finds all runners
    busy opens another one, as a runner is for one thread at a time.

    Raises what `open_engine` raises.
    """
    plan = Path(settings["plan"])
    idle: SimpleQueue[EngineRunner] = SimpleQueue()
    first = open_engine(plan)
    idle.put(first)
    signature = first.signature

    @contextmanager
    def runner() -> Any:
        try:
            taken = idle.get_nowait()
        except Empty:
            taken = open_engine(plan)
        yield taken
        idle.put(taken)

    def to_tensor(encoded: Sequence[bytes]) -> Pixels:
        return pixels_of(encoded, settings)

    def to_logits(pixels: Pixels) -> npt.NDArray[np.float32]:
        with runner() as taken:
            return filling(taken)(pixels)[0]

    def classify(encoded: Sequence[bytes]) -> list[Top1]:
        return top1_from_logits(to_logits(to_tensor(encoded)))

    own: list[EngineRunner] = []  # for the scope 'session', which is timed with one stream only

    def place(pixels: Pixels) -> Callable[[], None]:
        if not own:
            own.append(open_engine(plan))
        missing = max(0, signature.profile.min - len(pixels))
        return own[0].placed(np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]))

    facts = {"provider": f"{settings['engine']} {plan.name}", "most_images": signature.profile.max}
    return Engine(classify, to_tensor, to_logits, facts, place)
