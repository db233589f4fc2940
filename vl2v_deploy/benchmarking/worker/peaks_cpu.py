"""What is timed for a processor's peaks: products in every library there is, a copy by all threads."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vl2v_deploy.benchmarking.worker.peaks_tried import Copy, Product, each_size

# Small enough for one core's cache, for a server's, and for neither: libraries differ in what suits them.
SIZES = (512, 1024, 2048)
COPY_BYTES = 256 * 2**20
CACHES = 4  # how many times the last-level caches a copy must hold
IR_VERSION = 10


def cpu_products(threads: int) -> Iterator[Product]:
    """Products in fp32 and int8, in numpy, onnxruntime and, where installed, OpenVINO and torch."""
    makers = [_numpy, lambda size: _onnxruntime(size, threads)]
    if importlib.util.find_spec("openvino"):
        makers.append(lambda size: _openvino(size, threads))
    if importlib.util.find_spec("torch"):
        makers.append(lambda size: _torch(size, threads))
    return each_size(SIZES, *makers)


def cpu_copy(threads: int) -> Copy:
    """A copy by as many threads of an array larger than all caches.

    That a processor may read what it is about to overwrite is not counted: to the program it is no gain.
    """
    size = max(COPY_BYTES, CACHES * last_level_cache_bytes())
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        # numpy lets go of the interpreter while it copies
        for done in [pool.submit(np.copyto, to, part) for part, to in parts]:
            done.result()

    return Copy(f"numpy copyto of {size // 2**20} MiB by {threads} thread(s), read and written", size, run)


def last_level_cache_bytes() -> int:
    """All last-level caches together; 0 where the system does not tell."""
    caches = {}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
        try:
            size = (folder / "size").read_text().strip()
            caches[(folder / "shared_cpu_list").read_text()] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):  # an offline CPU, another way of writing it
            continue
    return sum(caches.values())


def _numpy(size: int) -> Iterator[Product]:
    a, b = _floats(size), _floats(size)
    out = np.empty_like(a)
    yield Product("fp32", "numpy", size, lambda: np.matmul(a, b, out=out))


def _torch(size: int, threads: int) -> Iterator[Product]:
    import torch

    torch.set_num_threads(threads)
    a, b = torch.from_numpy(_floats(size)), torch.from_numpy(_floats(size))
    out = torch.empty_like(a)
    yield Product("fp32", "torch", size, lambda: torch.mm(a, b, out=out))


def _onnxruntime(size: int, threads: int) -> Iterator[Product]:
    from vl2v_deploy.client.student import open_session

    for kind, name, graph, x in _graphs(size):
        session = open_session(graph.SerializeToString(), threads=threads)
        yield Product(kind, f"onnxruntime {name}", size, lambda s=session, x=x: s.run(["y"], {"x": x}))  # type: ignore[misc]


def _openvino(size: int, threads: int) -> Iterator[Product]:
    import openvino  # type: ignore[import-untyped]

    core = openvino.Core()
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    for kind, name, graph, x in _graphs(size):
        if name == "MatMulInteger":  # OpenVINO cannot read it
            continue
        compiled = core.compile_model(core.read_model(graph.SerializeToString(), b""), "CPU", config)
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        yield Product(kind, f"OpenVINO {name}", size, request.infer)


def _graphs(size: int) -> Iterator[tuple[str, str, onnx.ModelProto, np.ndarray[Any, Any]]]:
    """Type, operator, graph and input of each product that runtimes of ONNX are given."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size, size), dtype=np.uint8)
    weight = rng.integers(-127, 127, (size, size), dtype=np.int8)
    yield (
        "fp32",
        "MatMul",
        _graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "FLOAT", "FLOAT", w=_floats(size)),
        _floats(size),
    )
    integer = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    yield "int8", "MatMulInteger", _graph(integer, "UINT8", "INT32", w=weight), pixels
    pairs = [
        helper.make_node("DequantizeLinear", ["x", "s", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "none"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "one", "zero"], ["y"]),
    ]
    scales = {"s": np.float32(0.01), "one": np.float32(1), "zero": np.uint8(128), "none": np.int8(0)}
    yield "int8", "QDQ MatMul", _graph(pairs, "UINT8", "UINT8", w=weight, **scales), pixels


def _graph(nodes: list[onnx.NodeProto], given: str, made: str, **weights: Any) -> onnx.ModelProto:
    size = weights["w"].shape[0]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.DataType.Value(given), [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.DataType.Value(made), [size, size])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=IR_VERSION)


def _floats(size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(size).random((size, size), dtype=np.float32)
