"""The student of a run directory, and the teacher, both in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vl2v_deploy.benchmarking.worker.contract import Engine, Top1, pixels_of, top1_from_logits
from vl2v_deploy.client.bundle import open_bundle
from vl2v_deploy.client.golden import golden_of
from vl2v_deploy.client.images import TRUSTED, open_image
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.exporting.graph.student_graph import DeployedStudent, deployed_student
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.teacher.load import load_white_box
from vl2v_deploy.models.teacher.protocol import device_of, prompt_classifier
from vl2v_deploy.recipe import teacher_from_tree

# Of the golden samples' largest logit: threads and devices sum in another order, other weights are far off.
SAME_STUDENT = 1e-3


def load_torch(settings: Mapping[str, Any]) -> Engine:
    """The torch student of settings run, temperature, bundle, image_size_px, draft, device and threads.

    It is the module that export traces.

    Raises BenchmarkError when it is not the student that the bundle was made from; BundleError, RunError,
    ProviderError.
    """
    torch.set_num_threads(int(settings["threads"]))
    device = require_device(settings["device"])
    run = load_run(Path(settings["run"]))
    student = deployed_student(run, float(settings["temperature"])).to(device)

    @torch.inference_mode()
    def to_logits(pixels: Tensor) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = student(pixels.to(device))[0].cpu().numpy()
        return logits

    def to_tensor(encoded: Sequence[bytes]) -> Tensor:
        return torch.from_numpy(pixels_of(encoded, settings))

    def classify(encoded: Sequence[bytes]) -> list[Top1]:
        return top1_from_logits(to_logits(to_tensor(encoded)))

    _require_same_student(to_logits, Path(settings["bundle"]), Path(settings["run"]))
    facts = {"provider": f"torch {device}", "model_bytes": _bytes_of(student)}
    return Engine(classify, to_tensor, to_logits, facts, lambda pixels: _placed(student, pixels.to(device)))


def load_teacher_engine(settings: Mapping[str, Any]) -> Engine:
    """The zero-shot teacher of settings teacher (its recipe), prompts, logit_scale, device and threads."""
    torch.set_num_threads(int(settings["threads"]))
    teacher = load_white_box(
        teacher_from_tree(settings["teacher"]), "timing the teacher here", settings["device"]
    )
    logit_scale = float(settings["logit_scale"])
    # (D, K): the texts are embedded once, an application would not pay for them at every image.
    text_emb = prompt_classifier(teacher, settings["prompts"]).T.contiguous()

    def to_tensor(encoded: Sequence[bytes]) -> Tensor:
        return teacher.preprocess([open_image(image, TRUSTED) for image in encoded])

    def to_logits(images: Tensor) -> npt.NDArray[np.float32]:
        cosine = teacher.embed_preprocessed(images) @ text_emb  # (B, K)
        logits: npt.NDArray[np.float32] = (logit_scale * cosine).numpy()
        return logits

    def classify(encoded: Sequence[bytes]) -> list[Top1]:
        return top1_from_logits(to_logits(to_tensor(encoded)))

    encoder, device = teacher.image_tower.module, device_of(teacher)

    def place(images: Tensor) -> Callable[[], None]:
        on_device = images.to(device, memory_format=torch.channels_last)
        return _placed(encoder, on_device)

    # Of the image encoder alone: whoever hosts it needs the other one once, for the texts.
    facts = {"provider": f"torch {device}", "model_bytes": _bytes_of(encoder)}
    return Engine(classify, to_tensor, to_logits, facts, place)


def _placed(forward: Callable[[Tensor], Any], images: Tensor) -> Callable[[], None]:
    """A call that runs `forward` on a tensor that is where it computes, and waits for the device."""

    @torch.inference_mode()
    def run() -> None:
        forward(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)

    return run


def _require_same_student(
    to_logits: Callable[[Tensor], npt.NDArray[np.float32]], bundle: Path, run: Path
) -> None:
    opened = open_bundle(bundle)
    golden = golden_of(opened)
    expected = golden.answers("logits", (len(golden.paths), len(opened.classes)))
    got = to_logits(torch.from_numpy(golden.images))
    error = float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
    if not error <= SAME_STUDENT * float(np.abs(expected).max()):
        raise BenchmarkError(
            f"{run}: is not the student that {bundle} was made from: logits of the golden samples are "
            f"{error:.3g} apart; name its run directory with --run"
        )


def _bytes_of(model: DeployedStudent | Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
