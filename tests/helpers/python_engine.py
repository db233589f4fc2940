"""A TensorRT engine written in Python, whose answers are known, and torch whose device memory is the CPU's.

Importing this skips the test module where the rtx extra is not installed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.engine_graphs import CLASSES, EMBEDDING, SIZE_PX
from vl2v_deploy.exporting.tensorrt import runner as engine_runner
from vl2v_deploy.exporting.tensorrt.build import Profile
from vl2v_deploy.exporting.tensorrt.runner import EngineRunner

trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")

PROFILE = Profile(2, 3, 6)
IO = {
    "images": (trt.TensorIOMode.INPUT, trt.DataType.UINT8, (-1, SIZE_PX, SIZE_PX, 3)),
    "logits": (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (-1, CLASSES)),
    "embedding": (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (-1, EMBEDDING)),
}


def images_of(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (batch, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the engine of Python computes: a different number for every image, class and dimension."""
    sums = images.reshape(len(images), -1).astype(np.float32).sum(1, keepdims=True)
    return sums + np.arange(CLASSES, dtype=np.float32), sums - np.arange(EMBEDDING, dtype=np.float32)


class FakeContext:
    """Reads and writes the addresses it was given, as the real one does on the GPU."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.addresses, self.batch = engine, dict[str, int](), 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        self.batch = shape[0]
        return self.engine.takes_shapes

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.engine.fixed_batch or self.batch, *self.engine.io[name][2][1:])

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.launches.append(self.batch)
        images = self._at("images", np.uint8)
        for name, values in zip(("logits", "embedding"), answer(images), strict=True):
            self._at(name, np.float32)[...] = values
        return self.engine.executes

    def _at(self, name: str, dtype: type) -> np.ndarray:
        shape = (self.batch, *self.engine.io[name][2][1:])
        held = ctypes.c_char * (int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return np.frombuffer(held.from_address(self.addresses[name]), dtype).reshape(shape)


class FakeEngine:
    takes_shapes = executes = True
    fixed_batch = 0

    def __init__(self, io: dict[str, Any] | None = None) -> None:
        self.io = io or IO
        self.num_io_tensors = len(self.io)
        self.launches: list[int] = []
        self.contexts: list[FakeContext] = []

    def get_tensor_name(self, index: int) -> str:
        return list(self.io)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.io[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.io[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.io[name][2])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, SIZE_PX, SIZE_PX, 3) for batch in (PROFILE.min, PROFILE.opt, PROFILE.max)]

    def create_execution_context(self) -> FakeContext:
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeGraph:
    """Replays what was launched while it was captured, in the context of that time."""

    def replay(self) -> None:
        runner, context, batch = self.captured
        runner._launch(context, batch)


@pytest.fixture
def cpu_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch whose device memory is the CPU's, so that all but the GPU itself is exercised."""
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)

    @contextmanager
    def nothing(*_: Any, **__: Any) -> Iterator[None]:
        yield

    cuda = SimpleNamespace(
        Stream=lambda: stream,
        stream=nothing,
        current_stream=lambda: stream,
        CUDAGraph=FakeGraph,
        graph=nothing,
    )
    fake = SimpleNamespace(
        empty=lambda shape, dtype, **_: torch.empty(shape, dtype=dtype),
        uint8=torch.uint8,
        float32=torch.float32,
        cuda=cuda,
    )
    monkeypatch.setattr(engine_runner, "torch", fake)


def runner_of(engine: FakeEngine, *, cuda_graph: bool = False) -> EngineRunner:
    library = ModuleType("tensorrt")  # without CudaGraphStrategy: the caller captures
    library.TensorIOMode, library.ILogger = trt.TensorIOMode, trt.ILogger  # type: ignore[attr-defined]
    return EngineRunner("student.fp16.plan", library, engine, cuda_graph=cuda_graph)
