"""The measured process: one engine, timed here, asked over stdin, answering on stdout, one JSON a line.

    parent                                               worker
    {"engine": "onnxruntime", "threads": 2, ...}    ->
                                                    <-   {"load_s": 0.3, "provider": ..., ...}
    {"scope": "bytes_to_label", "batch": 8, "n": 5} ->
                                                    <-   {"samples_s": [...], "peak_rss_bytes": ...}
    (end of file)                                   ->   exit

An error that the user can mend comes back as {"error": "..."}; anything else is a traceback on stderr.
Run as: python -m vl2v_deploy.benchmark.worker
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmark.device import peak_rss_bytes
from vl2v_deploy.errors import BenchmarkError, VL2VError
from vl2v_deploy.models.versions import package_versions

BYTES_TO_LABEL, TENSOR_TO_LOGITS = "bytes_to_label", "tensor_to_logits"
SCOPES = (BYTES_TO_LABEL, TENSOR_TO_LOGITS)


@dataclass(frozen=True)
class Engine:
    """What is measured: three functions and what must be said of them.

    classify:  encoded images -> class indices, as an application would call it
    to_tensor: encoded images -> the preprocessed tensor (B, ...) in host memory
    to_logits: that tensor -> logits (B, K) in host memory; returns when they are there
    facts:     provider, threads, model size
    """

    classify: Callable[[Sequence[bytes]], list[int]]
    to_tensor: Callable[[Sequence[bytes]], Any]
    to_logits: Callable[[Any], npt.NDArray[np.float32]]
    facts: Mapping[str, Any]


def main(load: Callable[[Mapping[str, Any]], Engine] | None = None) -> int:
    """Load the engine that the first line of stdin names, then time it until stdin ends; exit status.

    load: another way from settings to engine, for a harness test with an engine of known speed
    """
    replies = _claim_stdout()
    settings = json.loads(sys.stdin.readline())
    try:
        serve((load or load_engine), settings, sys.stdin, replies)
    except VL2VError as error:
        _reply(replies, {"error": str(error)})
        return 1
    return 0


def serve(
    load: Callable[[Mapping[str, Any]], Engine],
    settings: Mapping[str, Any],
    requests: TextIO,
    replies: TextIO,
) -> None:
    """Load, report, then answer each request with its raw samples in seconds."""
    encoded = [Path(path).read_bytes() for path in settings["images"]]
    start = perf_counter()
    engine = load(settings)
    load_s = perf_counter() - start
    ready = {
        "load_s": load_s,
        "peak_rss_bytes": peak_rss_bytes(),
        "torch_imported": "torch" in sys.modules,
        "versions": package_versions(),
    }
    _reply(replies, {**ready, **engine.facts})

    tensors = engine.to_tensor(encoded)  # (P, ...): preprocessed once, outside of every timed span
    position = dict.fromkeys(SCOPES, 0)
    for line in requests:
        request = json.loads(line)
        scope, batch = request["scope"], int(request["batch"])
        samples_s = []
        for _ in range(int(request["n"])):
            # Around the pool in the same order for every engine: all see the same images.
            chosen = [(position[scope] + i) % len(encoded) for i in range(batch)]
            position[scope] += batch
            samples_s.append(_time_once(engine, scope, encoded, tensors, chosen))
        _reply(replies, {"samples_s": samples_s, "peak_rss_bytes": peak_rss_bytes()})


def load_engine(settings: Mapping[str, Any]) -> Engine:
    """The engine that `settings["engine"]` names; its libraries are imported here, not before."""
    match settings["engine"]:
        case "onnxruntime":
            return _load_student(settings)
        case "teacher":
            return _load_teacher(settings)
        case other:
            raise BenchmarkError(f"unknown engine {other!r}: expected onnxruntime or teacher")


def _load_student(settings: Mapping[str, Any]) -> Engine:
    from vl2v_deploy.client import Student

    threads = int(settings["threads"])
    student = Student.load(settings["bundle"], providers=(settings["provider"],), threads=threads)

    def classify(encoded: Sequence[bytes]) -> list[int]:
        return [p.index for p in student.predict_batch(encoded, batch_size=len(encoded))]

    return Engine(
        classify=classify,
        to_tensor=lambda encoded: np.stack([student.pixels(image) for image in encoded]),
        to_logits=lambda pixels: student.run(pixels)[0],
        facts={
            "provider": student.provider,
            "threads": threads,
            "model_bytes": student.bundle.onnx.stat().st_size,
        },
    )


def _load_teacher(settings: Mapping[str, Any]) -> Engine:
    import torch

    torch.set_num_threads(int(settings["threads"]))
    from vl2v_deploy.client.preprocess import open_image
    from vl2v_deploy.models.teacher import load_teacher, prompt_classifier
    from vl2v_deploy.recipe import TeacherRecipe

    teacher = load_teacher(TeacherRecipe.model_validate(settings["teacher"]))
    # (D, K): the texts are embedded once, an application would not pay for them at every image.
    text_emb = prompt_classifier(teacher, settings["prompts"]).T.contiguous()

    def to_tensor(encoded: Sequence[bytes]) -> torch.Tensor:
        return teacher.preprocess([open_image(image) for image in encoded])

    def to_logits(images: torch.Tensor) -> npt.NDArray[np.float32]:
        cosine = teacher.embed_preprocessed(images) @ text_emb  # (B, K)
        logits: npt.NDArray[np.float32] = (teacher.logit_scale * cosine).numpy()
        return logits

    def classify(encoded: Sequence[bytes]) -> list[int]:
        labels: list[int] = to_logits(to_tensor(encoded)).argmax(1).tolist()
        return labels

    return Engine(
        classify=classify,
        to_tensor=to_tensor,
        to_logits=to_logits,
        facts={
            "provider": f"torch {teacher.device}",
            "threads": torch.get_num_threads(),
            "model_bytes": sum(p.numel() * p.element_size() for p in teacher.model.parameters()),
        },
    )


def _time_once(
    engine: Engine, scope: str, encoded: Sequence[bytes], tensors: Any, chosen: Sequence[int]
) -> float:
    if scope == BYTES_TO_LABEL:
        images = [encoded[i] for i in chosen]
        start = perf_counter()
        engine.classify(images)
        return perf_counter() - start
    batch = tensors[list(chosen)]  # a copy, as fresh as one that preprocessing just made
    start = perf_counter()
    engine.to_logits(batch)
    return perf_counter() - start


def _claim_stdout() -> TextIO:
    """The real stdout, for replies only; whatever a library prints goes to stderr from here on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
