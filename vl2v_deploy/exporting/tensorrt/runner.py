"""An engine on the GPU: fixed buffers, checked batches, uint8 images in, logits and embedding out.

Our own runner, not Polygraphy's: that one chooses TensorRT or TensorRT-RTX once for the process, by an
environment variable; it allocates new outputs as shapes change, has neither pinned memory nor CUDA graphs,
and is, by its own documentation, not meant for deployment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.onnx_file import Parity
from vl2v_deploy.client.passport import Profile
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import BundleError, ImageError, ParityError, ProviderError
from vl2v_deploy.exporting.tensorrt.library import here, load_engine, load_library, logger_of
from vl2v_deploy.exporting.tensorrt.passport import (
    mark_unusable,
    read_passport,
    record_parity,
    require_runnable,
    write_passport,
)
from vl2v_deploy.exporting.tensorrt.proof import precision_proof

RunEngine: TypeAlias = Callable[[Pixels], tuple[Floats, Floats]]

OUTPUTS = ("logits", "embedding")
# Each captured graph holds a context of its own with the engine's scratch memory: only so many are kept.
MOST_GRAPHS = 8


@dataclass(frozen=True)
class Signature:
    """What an engine of this package takes and gives.

    profile:   batch sizes
    size_px:   S
    classes:   K
    embedding: D
    """

    profile: Profile
    size_px: int
    classes: int
    embedding: int


class EngineRunner:
    """One engine, ready to run, for one thread at a time; `open_engine` makes it, `with` or `close` frees."""

    def __init__(self, name: str, trt: ModuleType, engine: Any, *, cuda_graph: bool) -> None:
        self.name, self._trt, self._engine = name, trt, engine
        self.signature = read_signature(name, trt, engine)
        signature, most = self.signature, self.signature.profile.max
        self._buffers = {
            "images": _Buffer((most, signature.size_px, signature.size_px, 3), torch.uint8),
            "logits": _Buffer((most, signature.classes), torch.float32),
            "embedding": _Buffer((most, signature.embedding), torch.float32),
        }
        self._stream = torch.cuda.Stream()
        # TensorRT-RTX captures by itself, shape by shape; with TensorRT it is for the caller to do.
        self._captures_itself = cuda_graph and hasattr(trt, "CudaGraphStrategy")
        self._graphs: dict[int, tuple[Any, Any]] | None = (
            {} if cuda_graph and not self._captures_itself else None
        )
        self._context = self._new_context() if self._graphs is None else None

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits (B, K) and embedding (B, D), float32, in memory of their own.

        images: uint8 (B, S, S, 3) RGB, B within the profile

        Raises ImageError for any other array, before anything is launched; ProviderError when the GPU fails.
        """
        if self._engine is None:
            raise ProviderError(f"{self.name}: was closed; open it again")
        batch = require_batch(self.name, self.signature, images)
        self._buffers["images"].host[:batch].numpy()[...] = images
        with torch.cuda.stream(self._stream):
            if self._graphs is None:
                self._launch(self._context, batch)
            else:
                self._graph(self._graphs, batch).replay()
        self._stream.synchronize()
        logits, embedding = (self._buffers[name].host[:batch].numpy().copy() for name in OUTPUTS)
        return logits, embedding

    def placed(self, images: Pixels) -> Callable[[], None]:
        """A call that runs the network alone, on these images, and returns when it is done.

        They are on the GPU already, the answers stay there, and no CUDA graph is replayed: for measuring. It
        holds until the runner is called otherwise, or closed.

        images: as `__call__` takes them
        """
        self(images)  # leaves them in the GPU's buffer
        context = self._context or self._new_context()
        if not context.set_input_shape("images", images.shape):
            reasons = logger_of(self._trt).reasons()
            raise ProviderError(f"{self.name}: batch {len(images)} was refused: {reasons}")

        def run() -> None:
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise ProviderError(f"{self.name}: failed: {logger_of(self._trt).reasons()}")
            self._stream.synchronize()

        return run

    def close(self) -> None:
        """Free the GPU's memory; calling it twice is fine."""
        if self._engine is None:
            return
        self._stream.synchronize()
        # Graphs before their contexts, contexts before their engine, buffers when nothing points at them.
        self._graphs = self._context = self._engine = None
        self._buffers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new_context(self) -> Any:
        if self._captures_itself:
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise ProviderError(f"{self.name}: no execution context: {logger_of(self._trt).reasons()}")
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.device.data_ptr())
        return context

    def _launch(self, context: Any, batch: int) -> None:
        """Queue copy in, inference and copies out on the current stream."""
        logger = logger_of(self._trt)
        logger.clear()
        shapes = {name: (batch, *buffer.device.shape[1:]) for name, buffer in self._buffers.items()}
        if not context.set_input_shape("images", shapes["images"]):
            raise ProviderError(f"{self.name}: batch {batch} was refused: {logger.reasons()}")
        for name in OUTPUTS:
            if (found := tuple(context.get_tensor_shape(name))) != shapes[name]:
                raise ProviderError(
                    f"{self.name}: {name}: expected {shapes[name]} of batch {batch}, got {found}"
                )
        self._buffers["images"].to_device(batch)
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise ProviderError(f"{self.name}: failed at batch {batch}: {logger.reasons()}")
        for name in OUTPUTS:
            self._buffers[name].to_host(batch)

    def _graph(self, graphs: dict[int, tuple[Any, Any]], batch: int) -> Any:
        """The captured launch of this batch size.

        A graph holds addresses and shapes of the context it was captured from, and is undefined once that
        context changes: so each has a context of its own.
        """
        if batch not in graphs:
            while len(graphs) >= MOST_GRAPHS:
                del graphs[next(iter(graphs))]  # the oldest
            context = self._new_context()
            self._launch(context, batch)  # the first run of a shape allocates, which a capture must not
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._launch(context, batch)
            graphs[batch] = (graph, context)
        return graphs[batch][0]


class _Buffer:
    """The same tensor on the GPU and in page-locked memory, which the GPU copies without the CPU's help."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.device: Tensor = torch.empty(shape, dtype=dtype, device="cuda")
        self.host: Tensor = torch.empty(shape, dtype=dtype, pin_memory=True)

    def to_device(self, batch: int) -> None:
        self.device[:batch].copy_(self.host[:batch], non_blocking=True)

    def to_host(self, batch: int) -> None:
        self.host[:batch].copy_(self.device[:batch], non_blocking=True)


def open_engine(plan: Path, *, cuda_graph: bool = False) -> EngineRunner:
    """The engine on torch's current GPU, after its passport allowed it.

    cuda_graph: record the launches of each batch size once and replay them, which saves the CPU's time

    Raises what `read_passport` and `require_runnable` raise; ProviderError when the library refuses the plan
    nevertheless; BundleError when its inputs and outputs are not those of a student.
    """
    passport = read_passport(plan)
    require_runnable(passport, here(passport.flavour))
    trt = load_library(passport.flavour)
    engine = load_engine(trt, plan, trusted=passport.version_compatible)
    runner = EngineRunner(plan.name, trt, engine, cuda_graph=cuda_graph)
    profile = runner.signature.profile
    if profile != passport.profile:
        runner.close()
        raise BundleError(f"{plan}: built for {profile}, its passport says {passport.profile}; export again")
    return runner


def prove_engine(plan: Path, check: Callable[[RunEngine, tuple[int, ...]], Parity]) -> None:
    """Run the engine's parity check on the GPU here and write the outcome into its passport.

    check: engine, batch sizes (min, opt and max of the profile: some TensorRT engines are right at one and
           silently wrong at another) -> parity; raises ParityError. It may end with a batch below the
           profile's min: that one is filled up, and the filling's answers are dropped.

    Raises the error again once the passport says that the engine is unusable; nothing is deleted. Raises what
    `require_runnable` raises, the passport untouched, where this machine may not run it.
    """
    passport = read_passport(plan)
    require_runnable(passport, here(passport.flavour))  # a machine that may not run it proves nothing
    try:
        with open_engine(plan) as runner:
            parity = check(filling(runner), runner.signature.profile.sizes)
    except (ParityError, ProviderError, BundleError) as error:  # the last two: not loaded, failed at a batch
        mark_unusable(plan, str(error))
        raise
    passport = record_parity(plan, parity)
    proof = passport.precision_proof
    if proof is None or proof.engine_layers is None:  # built where it could not be read
        trt, shares = load_library(passport.flavour), proof.onnx_mac_shares if proof else None
        proof = precision_proof(trt, plan, passport.profile.opt, shares)
        write_passport(plan, replace(passport, precision_proof=proof))


def filling(runner: EngineRunner) -> RunEngine:
    """The runner, but a batch below its profile's min is filled up, and the filling's answers are dropped."""

    def run(images: Pixels) -> tuple[Floats, Floats]:
        missing = max(0, runner.signature.profile.min - len(images))
        logits, embedding = runner(np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]))
        return logits[: len(images)], embedding[: len(images)]

    return run


def require_batch(name: str, signature: Signature, images: Pixels) -> int:
    """B of uint8 images (B, S, S, 3) that the engine takes; ImageError for any other array."""
    size = signature.size_px
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise ImageError(
            f"{name}: expected images uint8 (B, {size}, {size}, 3), got {images.dtype} {images.shape}"
        )
    profile, batch = signature.profile, len(images)
    if not profile.min <= batch <= profile.max:
        raise ImageError(
            f"{name}: batch {batch} is outside its profile {profile}; "
            "split or fill the batch, or export with another --profile"
        )
    return batch


def read_signature(name: str, trt: ModuleType, engine: Any) -> Signature:
    """Inputs and outputs as the engine itself gives them.

    Raises BundleError unless they are images: uint8 (batch, S, S, 3) -> logits, embedding: float32.
    """
    found = {}
    for index in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(index)
        kind = "input" if engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT else "output"
        dtype = engine.get_tensor_dtype(tensor).name.lower()
        found[tensor] = (kind, dtype, tuple(engine.get_tensor_shape(tensor)))
    match found:
        case {
            "images": ("input", "uint8", (_, int() as size, int() as width, 3)),
            "logits": ("output", "float", (_, int() as classes)),
            "embedding": ("output", "float", (_, int() as dim)),
        } if len(found) == 3 and size == width > 0:
            smallest, best, largest = (
                int(shape[0]) for shape in engine.get_tensor_profile_shape("images", 0)
            )
            return Signature(Profile(smallest, best, largest), size, classes, dim)
    raise BundleError(
        f"{name}: expected images: uint8 (batch, S, S, 3) -> logits, embedding: float32, got "
        + "; ".join(f"{kind} {tensor}: {dtype} {shape}" for tensor, (kind, dtype, shape) in found.items())
    )
