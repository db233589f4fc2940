"""A file of the bundle in onnxruntime, called as an application would: through the client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.worker.contract import Engine, Top1
from vl2v_deploy.client import Student
from vl2v_deploy.client.preprocess import Pixels

# The provider that must run, then those that take the operators it cannot.
PROVIDERS = {"cpu": ("cpu",), "cuda": ("cuda",), "tensorrt": ("tensorrt", "cuda")}
ON_DEVICE = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}


def load_onnxruntime(settings: Mapping[str, Any]) -> Engine:
    """The engine of settings bundle, precision, provider (a key of PROVIDERS) and threads."""
    provider, threads = settings["provider"], int(settings["threads"])
    student = Student.load(
        settings["bundle"], precision=settings["precision"], providers=PROVIDERS[provider], threads=threads
    )

    def classify(encoded: Sequence[bytes]) -> list[Top1]:
        if len(encoded) == 1:
            predictions = [student.predict(encoded[0])]
        else:
            predictions = student.predict_batch(encoded, batch_size=len(encoded))
        return [(p.index, p.probability) for p in predictions]

    def logits(encoded: Sequence[bytes]) -> npt.NDArray[np.float32]:
        predictions = student.predict_batch(encoded, batch_size=len(encoded), logits=True)
        return np.array([prediction.logits for prediction in predictions], np.float32)

    return Engine(
        classify=classify,
        to_tensor=lambda encoded: np.stack([student.pixels(image) for image in encoded]),
        to_logits=lambda pixels: student.run(pixels)[0],
        facts={"provider": student.provider},
        place=lambda pixels: _bound(student._session, pixels, ON_DEVICE[provider]),
        logits=logits,
    )


def _bound(session: Any, pixels: Pixels, device: str) -> Callable[[], None]:
    """A call that runs the session on memory of its own device, bound once."""
    import onnxruntime

    binding = session.io_binding()
    images = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pixels), device, 0)
    binding.bind_ortvalue_input("images", images)
    for output in session.get_outputs():
        shape = [len(pixels), int(output.shape[-1])]
        room = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
        binding.bind_ortvalue_output(output.name, room)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
