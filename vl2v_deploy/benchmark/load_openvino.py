"""A file of the bundle in OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmark.contract import Answer, Engine, answers_from_logits, pixels_of
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import MissingExtra


def load_openvino(settings: Mapping[str, Any]) -> Engine:
    """The engine of settings file, image_size_px, draft, threads and streams.

    OpenVINO shares its threads out to its streams: it gets `threads` for each of them, as every call in
    onnxruntime has. It is told to compute in float32 what is no int8: left alone it takes bfloat16 where the
    CPU can, and answers otherwise (export/parity.py).

    Raises MissingExtra without openvino.
    """
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("openvino", "openvino") from error
    threads, streams = int(settings["threads"]), int(settings["streams"])
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads * streams,
        "NUM_STREAMS": streams,
    }
    model = openvino.Core().compile_model(settings["file"], "CPU", config)
    idle: SimpleQueue[Any] = SimpleQueue()  # of infer requests: each is for one thread at a time

    def to_tensor(encoded: Sequence[bytes]) -> Pixels:
        return np.stack([pixels_of(image, settings) for image in encoded])

    def to_logits(pixels: Pixels) -> npt.NDArray[np.float32]:
        try:
            request = idle.get_nowait()
        except Empty:
            request = model.create_infer_request()
        results = request.infer({"images": pixels}, share_inputs=True, share_outputs=True)
        logits = np.array(results["logits"])  # a copy: the request's own memory is used again
        idle.put(request)
        return logits

    def classify(encoded: Sequence[bytes]) -> list[Answer]:
        return answers_from_logits(to_logits(to_tensor(encoded)))

    def place(pixels: Pixels) -> Callable[[], None]:
        request = model.create_infer_request()
        request.set_tensor("images", openvino.Tensor(np.ascontiguousarray(pixels), shared_memory=True))

        def run() -> None:
            request.infer(share_outputs=True)

        return run

    hint = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    used = (
        f"{model.get_property('INFERENCE_NUM_THREADS')} threads, {model.get_property('NUM_STREAMS')} streams"
    )
    return Engine(classify, to_tensor, to_logits, {"provider": f"OpenVINO CPU, {hint}, {used}"}, place)
