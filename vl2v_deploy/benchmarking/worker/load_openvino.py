"""A file of the bundle in OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.worker.contract import Engine, Top1, pixels_of, top1_from_logits
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import MissingExtra


def load_openvino(settings: Mapping[str, Any]) -> Engine:
    """The engine of settings file, image_size_px, draft and threads.

    OpenVINO divides its threads among its streams, so for several calls at once the file is compiled again,
    with `threads` for each of them. What is not int8 computes in float32: by default OpenVINO takes bfloat16
    where the CPU has it, which changes the answers (exporting/precision/parity.py).

    Raises MissingExtra without openvino.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "openvino") from error
    core = openvino.Core()
    file = _File(core, settings["file"], int(settings["threads"]))

    def to_tensor(encoded: Sequence[bytes]) -> Pixels:
        return pixels_of(encoded, settings)

    def classify(encoded: Sequence[bytes]) -> list[Top1]:
        return top1_from_logits(file.logits(to_tensor(encoded)))

    def place(pixels: Pixels) -> Callable[[], None]:
        request = file.model.create_infer_request()
        request.set_tensor("images", openvino.Tensor(np.ascontiguousarray(pixels), shared_memory=True))

        def run() -> None:
            request.infer(share_outputs=True)

        return run

    hint = file.model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    facts = {"provider": f"OpenVINO CPU, {hint}"}
    return Engine(classify, to_tensor, file.logits, facts, place, file.set_streams)


class _File:
    """A file compiled for one or more numbers of streams; `model` is that of the number set last."""

    def __init__(self, core: Any, file: str, threads: int) -> None:
        self._core, self._file, self._threads = core, file, threads
        self._compiled: dict[int, tuple[Any, SimpleQueue[Any]]] = {}
        self.set_streams(1)

    def set_streams(self, streams: int) -> None:
        """Prepare for so many calls at once."""
        if streams not in self._compiled:
            config = {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": self._threads * streams,
                "NUM_STREAMS": streams,
            }
            model = self._core.compile_model(self._file, "CPU", config)
            self._compiled[streams] = model, SimpleQueue()
        # infer requests that are idle: each is for one thread at a time
        self.model, self._idle = self._compiled[streams]

    def logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Logits (B, K) of preprocessed images, in their own memory."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self.model.create_infer_request()
        results = request.infer({"images": pixels}, share_inputs=True, share_outputs=True)
        logits = np.array(results["logits"])  # a copy: the request's own memory is used again
        self._idle.put(request)
        return logits
