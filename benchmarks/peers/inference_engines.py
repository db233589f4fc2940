"""The peers of our client, each as a good engineer would deploy timm's model; run by the harness as a worker.

decode   Pillow, the whole image, converted to RGB
prepare  timm's own evaluation transform: resize, centre crop, normalise
network  torch eager, torch.compile, or timm's own ONNX export in onnxruntime or OpenVINO; inference mode,
         channels-last memory in torch, OpenVINO told to optimise for latency
label    argmax

And the floor under our client: its decoding, its resize, its session, an argmax, and nothing else.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vl2v_deploy.benchmarking.worker.process import Engine, Top1, main
from vl2v_deploy.errors import BenchmarkError, MissingExtra

Floats = npt.NDArray[np.float32]
COMMAND = (sys.executable, str(Path(__file__).resolve()))


def load_peer(settings: Mapping[str, Any]) -> Engine:
    """The engine that `settings["engine"]` names.

    Raises BenchmarkError for an unknown one, or one that this machine cannot run; MissingExtra.
    """
    match settings["engine"]:
        case "torch" | "torch.compile":
            return _torch(settings)
        case "onnxruntime":
            return _onnxruntime(settings)
        case "openvino":
            return _openvino(settings)
        case "floor":
            return _floor(settings)
    raise BenchmarkError(f"unknown peer {settings['engine']!r}")


def _torch(settings: Mapping[str, Any]) -> Engine:
    import timm
    import torch

    torch.set_num_threads(int(settings["threads"]))
    model: Any = timm.create_model(settings["model"]).eval()
    model.load_state_dict(torch.load(settings["state"], weights_only=True))
    model = model.to(memory_format=torch.channels_last)
    transform = _timm_transform(settings["model"])
    compiled = settings["engine"] == "torch.compile"
    if compiled:
        model = _compiled(model, int(settings["size_px"]))

    def to_logits(images: Any) -> Floats:
        with torch.inference_mode():
            logits: Floats = model(images).numpy()
        return logits

    def to_tensor(encoded: Sequence[bytes]) -> Any:
        return torch.stack([transform(_decoded(image)) for image in encoded])

    def place(images: Any) -> Callable[[], None]:
        def run() -> None:
            to_logits(images)

        return run

    return _engine(to_tensor, to_logits, place, f"torch {'compiled' if compiled else 'eager'}, CPU")


def _compiled(model: Any, size_px: int) -> Any:
    """The model compiled for one image, weights frozen into it; compiled here, before anything is timed."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    compiled: Any = torch.compile(model)
    try:
        with torch.inference_mode():
            compiled(torch.zeros(1, 3, size_px, size_px))
    except Exception as error:  # no C++ compiler, one that is too old, an operator it does not know
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BenchmarkError(
            f"torch.compile does not work here (it needs a C++ compiler): {reason}"
        ) from error
    return compiled


def _onnxruntime(settings: Mapping[str, Any]) -> Engine:
    import onnxruntime
    import torch

    torch.set_num_threads(int(settings["threads"]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(settings["threads"])
    session = onnxruntime.InferenceSession(settings["file"], options, providers=["CPUExecutionProvider"])
    [name] = [value.name for value in session.get_inputs()]
    [output] = [value.name for value in session.get_outputs()]
    to_tensor = _timm_tensors(settings["model"])

    def to_logits(images: Floats) -> Floats:
        logits: Floats = session.run([output], {name: images})[0]
        return logits

    return _engine(to_tensor, to_logits, _bound(session, name, output), "onnxruntime CPU, timm's ONNX export")


def _openvino(settings: Mapping[str, Any]) -> Engine:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "openvino") from error
    import torch

    torch.set_num_threads(int(settings["threads"]))
    config = {"INFERENCE_NUM_THREADS": int(settings["threads"]), "PERFORMANCE_HINT": "LATENCY"}
    if settings["fp32"]:  # left alone, it takes bfloat16 where the CPU can
        config["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino.Core().compile_model(settings["file"], "CPU", config)
    request = compiled.create_infer_request()

    def to_logits(images: Floats) -> Floats:
        return np.array(request.infer([images], share_inputs=True, share_outputs=True)[0])

    def place(images: Floats) -> Callable[[], None]:
        own = compiled.create_infer_request()
        own.set_input_tensor(openvino.Tensor(np.ascontiguousarray(images), shared_memory=True))

        def run() -> None:
            own.infer(share_outputs=True)

        return run

    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    provider = f"OpenVINO CPU, timm's ONNX export, {hint}"
    return _engine(_timm_tensors(settings["model"]), to_logits, place, provider)


def _floor(settings: Mapping[str, Any]) -> Engine:
    """Our bundle without our client: what is left cannot be left out."""
    from vl2v_deploy.client.bundle import open_bundle
    from vl2v_deploy.client.preprocess import DRAFT_MARGIN
    from vl2v_deploy.client.student import open_session

    bundle = open_bundle(settings["bundle"])
    size_px = bundle.image_size_px
    session = open_session(bundle.onnx_of(settings["precision"]), threads=int(settings["threads"]))

    def pixels(encoded: bytes) -> npt.NDArray[np.uint8]:
        image = Image.open(io.BytesIO(encoded))
        if bundle.draft:
            image.draft(None, (DRAFT_MARGIN * size_px, DRAFT_MARGIN * size_px))
        if image.mode != "RGB":  # Pillow copies even where there is nothing to convert
            image = image.convert("RGB")  # type: ignore[assignment]
        return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR))

    def to_tensor(encoded: Sequence[bytes]) -> npt.NDArray[np.uint8]:
        if len(encoded) == 1:
            return pixels(encoded[0])[None]
        return np.stack([pixels(image) for image in encoded])

    def to_logits(images: npt.NDArray[np.uint8]) -> Floats:
        logits: Floats = session.run(["logits", "embedding"], {"images": images})[0]
        return logits

    place = _bound(session, "images", "logits", "embedding")
    return _engine(to_tensor, to_logits, place, f"onnxruntime CPU, the bundle's {settings['precision']} file")


def _engine(
    to_tensor: Callable[[Sequence[bytes]], Any],
    to_logits: Callable[[Any], Floats],
    place: Callable[[Any], Callable[[], None]],
    provider: str,
) -> Engine:
    def classify(encoded: Sequence[bytes]) -> list[Top1]:
        # Only our client is asked for a probability too: a peer that wants labels does without.
        return [(int(label), 1.0) for label in to_logits(to_tensor(encoded)).argmax(1)]

    return Engine(classify, to_tensor, to_logits, {"provider": provider}, place)


def _timm_tensors(model: str) -> Callable[[Sequence[bytes]], Floats]:
    transform = _timm_transform(model)
    return lambda encoded: np.stack([transform(_decoded(image)).numpy() for image in encoded])


def _timm_transform(model: str) -> Callable[[Image.Image], Any]:
    """timm's evaluation transform of a model: a Pillow image -> tensor (3, S, S)."""
    import timm
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config(timm.get_pretrained_cfg(model).to_dict())
    transform: Callable[[Image.Image], Any] = create_transform(**config, is_training=False)
    return transform


def _decoded(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def _bound(session: Any, name: str, *outputs: str) -> Callable[[Any], Callable[[], None]]:
    """From a tensor to a call that runs the session on it where it lies, and leaves the results there."""
    import onnxruntime

    def place(images: Any) -> Callable[[], None]:
        binding = session.io_binding()
        binding.bind_ortvalue_input(
            name, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images))
        )
        for output in outputs:
            binding.bind_output(output)
        return lambda: session.run_with_iobinding(binding)

    return place


if __name__ == "__main__":
    sys.exit(main(load_peer))
