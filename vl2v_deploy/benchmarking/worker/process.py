"""The measured process: one engine, timed here, asked over stdin, answering on stdout, one JSON a line.

    parent                                                worker
    {"engine": "onnxruntime", "threads": 2, ...}     ->
                                                     <-   {"load_s": 0.3, "provider": ..., ...}
    {"do": "predict", "images": [paths]}             ->
                                                     <-   {"labels": [...], "confidence": [...], ...}
    {"do": "time", "scope": "session", "batch": 8, "streams": 1, "n": 5} ->
                                                     <-   {"samples_s": [...], "wall_s": ..., ...}
    (end of file)                                    ->   exit

Besides `predict` and `time` there are `warm_up`, `single_stream`, `offline` and `server`, each a method of
`Desk`. Every reply ends with the most memory that the process has used so far. An error that the user can fix
comes back as {"error": "..."}; any other leaves a traceback on stderr. The engine "peaks" stands for the
machine itself: its first reply is the machine's peaks.
Run as: python -m vl2v_deploy.benchmarking.worker.process
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.answers import text_from_logits
from vl2v_deploy.benchmarking.worker.contract import Engine, Top1, top1_from_logits
from vl2v_deploy.benchmarking.worker.device import gpu_memory_bytes, peak_rss_bytes
from vl2v_deploy.benchmarking.worker.parent import requests_of_parent
from vl2v_deploy.benchmarking.worker.timing import (
    Arrivals,
    Pool,
    keep_busy,
    serve_arrivals,
    time_calls,
    warm_up,
)
from vl2v_deploy.errors import BenchmarkError, VL2VError
from vl2v_deploy.models.versions import package_versions

# For workers of other kinds of engine: write a `load` that returns an Engine, and call `main(load)`.
__all__ = ["Engine", "Top1", "main", "top1_from_logits"]

SESSION, TENSOR_TO_LOGITS, BYTES_TO_LABEL = "session", "tensor_to_logits", "bytes_to_label"
SCOPES = (BYTES_TO_LABEL, TENSOR_TO_LOGITS, SESSION)


def main(load: Callable[[Mapping[str, Any]], Engine] | None = None) -> int:
    """Load the engine that the first line of stdin names, then measure it until stdin ends; exit status.

    load: another way from settings to engine, for an engine that this package does not know
    """
    # The real stdout is for replies only; whatever a library prints goes to stderr from here on.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests = requests_of_parent()
    settings = json.loads(next(requests, ""))
    try:
        if settings.get("engine") == "peaks":
            from vl2v_deploy.benchmarking.worker.peaks import measure_peaks

            _reply(replies, measure_peaks(settings))
        else:
            serve((load or load_engine), settings, requests, replies)
    except VL2VError as error:
        _reply(replies, {"error": " ".join(str(error).split())})
        return 1
    return 0


def serve(
    load: Callable[[Mapping[str, Any]], Engine],
    settings: Mapping[str, Any],
    requests: Iterable[str],
    replies: TextIO,
) -> None:
    """Load, report, then answer each request; times are raw, in seconds."""
    encoded = [Path(path).read_bytes() for path in settings["images"]]
    start = perf_counter()
    engine = load(settings)
    ready = {
        "load_s": perf_counter() - start,
        "threads": int(settings["threads"]),
        "scopes": [scope for scope in SCOPES if scope != SESSION or engine.place],
        "torch_imported": "torch" in sys.modules,
        "versions": package_versions(),
    }
    _reply(replies, {**ready, **engine.facts, **_memory()})
    desk = Desk(engine, encoded)
    for line in requests:
        _reply(replies, {**desk.answer(json.loads(line)), **_memory()})


class Desk:
    """Answers requests about one engine.

    encoded: the images that are timed; every engine cycles through them in the same order
    """

    def __init__(self, engine: Engine, encoded: Sequence[bytes]) -> None:
        self._engine, self._encoded = engine, encoded
        self._pool = Pool()
        self._position, self._lock = dict.fromkeys(SCOPES, 0), Lock()
        self._tensors: Any = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request: `do` names the method, the other fields are its arguments."""
        fields = dict(request)
        methods = (self._predict, self._warm_up, self._time, self._single_stream, self._offline, self._server)
        by_name = {method.__name__.removeprefix("_"): method for method in methods}
        return by_name[fields.pop("do")](**fields)

    def _predict(self, images: Sequence[str], logits: bool = False) -> dict[str, Any]:
        """Label and probability of each image file, in order; on request its logits too."""
        self._prepare(streams=1)
        most = self._engine.facts.get("most_images") or len(images)
        answers: list[Top1] = []
        rows: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(images), most):
            encoded = [Path(path).read_bytes() for path in images[start : start + most]]
            if logits:
                rows.append(self._logits(encoded))
                answers += top1_from_logits(rows[-1])
            else:
                answers += self._engine.classify(encoded)
        if len(answers) != len(images):
            raise BenchmarkError(f"gave {len(answers)} answers to {len(images)} images")
        labels = [int(label) for label, _ in answers]
        told = {"labels": labels, "confidence": [round(float(p), 4) for _, p in answers]}
        return {**told, "logits": text_from_logits(np.concatenate(rows))} if logits else told

    def _logits(self, encoded: Sequence[bytes]) -> npt.NDArray[np.float32]:
        engine = self._engine
        return engine.logits(encoded) if engine.logits else engine.to_logits(engine.to_tensor(encoded))

    def _warm_up(self, scope: str, batch: int, streams: int, limit_s: float) -> dict[str, Any]:
        samples_s, steady = warm_up(self._pool, self._call(scope, batch, streams), streams, limit_s)
        return {"samples_s": samples_s, "steady": steady}

    def _time(self, scope: str, batch: int, streams: int, n: int) -> dict[str, Any]:
        call = self._call(scope, batch, streams)
        # Another engine has run since this one did: the first call finds the caches full of its data.
        time_calls(self._pool, call, streams, streams)
        samples_s, wall_s = time_calls(self._pool, call, n, streams)
        return {"samples_s": samples_s, "wall_s": wall_s}

    def _single_stream(self, queries: int, seconds: float) -> dict[str, Any]:
        call = self._call(BYTES_TO_LABEL, 1, 1)
        call(0, 0)
        samples_s, _ = keep_busy(self._pool, call, 1, seconds, most=queries)
        return {"samples_s": samples_s}

    def _offline(self, batch: int, streams: int, seconds: float) -> dict[str, Any]:
        call = self._call(BYTES_TO_LABEL, batch, streams)
        time_calls(self._pool, call, streams, streams)
        samples_s, wall_s = keep_busy(self._pool, call, streams, seconds)
        return {"images": batch * len(samples_s), "wall_s": wall_s}

    def _server(self, **fields: Any) -> dict[str, Any]:
        """Latencies of Poisson arrivals; the fields are those of `timing.Arrivals`."""
        asked = Arrivals(**fields)
        call = self._call(BYTES_TO_LABEL, 1, asked.streams)
        time_calls(self._pool, call, asked.streams, asked.streams)
        samples_s = serve_arrivals(self._pool, call, asked)
        return {"samples_s": samples_s, "dropped": asked.arrivals - len(samples_s)}

    def _call(self, scope: str, batch: int, streams: int) -> Callable[[int, int], object]:
        """What is timed: a function of the call's number and of the stream that makes it.

        From encoded images on, every call takes the next images of the cycle. The narrower scopes keep one
        batch per stream, since the time of a network does not depend on what is in the picture.
        """
        self._prepare(streams)
        if scope == BYTES_TO_LABEL:
            return lambda _, __: self._engine.classify([self._encoded[i] for i in self._next(scope, batch)])
        if self._tensors is None:
            self._tensors = self._engine.to_tensor(self._encoded)  # (P, ...)
        tensors = [self._tensors[self._next(scope, batch)] for _ in range(streams)]
        if scope == TENSOR_TO_LOGITS:
            return lambda _, stream: self._engine.to_logits(tensors[stream])
        if self._engine.place is None:
            raise BenchmarkError(f"scope {scope} is not offered by this engine")
        placed = [self._engine.place(tensor) for tensor in tensors]
        return lambda _, stream: placed[stream]()

    def _prepare(self, streams: int) -> None:
        if self._engine.set_streams:
            self._engine.set_streams(streams)

    def _next(self, scope: str, batch: int) -> list[int]:
        """Indices of the images that come next."""
        with self._lock:
            first = self._position[scope]
            self._position[scope] += batch
        return [(first + i) % len(self._encoded) for i in range(batch)]


def load_engine(settings: Mapping[str, Any]) -> Engine:
    """The engine that `settings["engine"]` names; its libraries are imported here, not before."""
    match settings["engine"]:
        case "onnxruntime":
            from vl2v_deploy.benchmarking.worker.load_onnxruntime import load_onnxruntime as load
        case "openvino":
            from vl2v_deploy.benchmarking.worker.load_openvino import load_openvino as load
        case "torch":
            from vl2v_deploy.benchmarking.worker.load_torch import load_torch as load
        case "teacher":
            from vl2v_deploy.benchmarking.worker.load_torch import load_teacher_engine as load
        case "tensorrt" | "tensorrt-rtx":
            from vl2v_deploy.benchmarking.worker.load_tensorrt import load_tensorrt as load
        case other:
            raise BenchmarkError(
                f"unknown engine {other!r}: expected onnxruntime, openvino, torch, tensorrt, tensorrt-rtx "
                "or teacher"
            )
    return load(settings)


def _memory() -> dict[str, int | None]:
    return {"peak_rss_bytes": peak_rss_bytes(), "gpu_memory_bytes": gpu_memory_bytes()}


def _reply(replies: TextIO, message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
