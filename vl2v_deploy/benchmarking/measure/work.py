"""The work of one image, counted from an ONNX graph: operations and bytes, before any machine is known.

What is counted as bytes between the nodes is what a runtime moves that fuses nothing but quantization:

- a tensor that a node makes of the images is written once and read once, however many nodes read it: a second
  reader follows so closely that it finds the tensor in a cache;
- Q/DQ pairs are not nodes of their own: what a QuantizeLinear takes, if nothing else takes it, and what a
  DequantizeLinear makes never reach memory, so that a tensor between two int8 layers counts in the eight bits
  in which it is stored;
- a Reshape and its like move nothing: their result is the tensor that they were given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import onnx

from vl2v_deploy.benchmarking.schema import GraphWork
from vl2v_deploy.errors import BenchmarkError, ExportError
from vl2v_deploy.exporting.graph.macs import count_macs, shapes_and_types

FLOPS_PER_MAC = 2
# Their result is the memory that they were given.
VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
# They ask for a tensor's shape, not for its values: what follows is no work on the image.
SHAPES_ONLY = {"Shape", "Size"}


def count_work(onnx_path: Path) -> GraphWork:
    """FLOPs and bytes of one image through the graph.

    onnx_path: a file whose first input dimension is the batch, which counts as 1

    Raises BenchmarkError when an operator or a shape cannot be counted.
    """
    model = onnx.load(onnx_path)
    try:
        macs = count_macs(model)
    except ExportError as error:
        raise BenchmarkError(f"{onnx_path}: its work cannot be counted: {error}") from error
    shapes, types = shapes_and_types(model)
    size = _Sizes(onnx_path, shapes, types)
    graph = model.graph
    return GraphWork(
        flops={kind: FLOPS_PER_MAC * count for kind, count in macs.by_type.items() if count},
        weight_bytes=sum(size.of(name) for name in _weights(model)),
        activation_bytes=sum(2 * size.of(name) for name in stored_tensors(model)),
        input_output_bytes=sum(size.of(value.name) for value in (*_inputs(model), *graph.output)),
    )


def stored_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors between two nodes that depend on the images and reach memory (see above)."""
    outputs = {value.name for value in model.graph.output}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    of_images = {value.name for value in _inputs(model)}
    stored = []
    for node in model.graph.node:
        if node.op_type in SHAPES_ONLY or not of_images.intersection(node.input):
            continue
        made = [name for name in node.output if name]
        of_images.update(made)
        if node.op_type not in VIEWS | {"DequantizeLinear"}:
            stored += [
                name
                for name in made
                if name not in outputs and any(reader != "QuantizeLinear" for reader in readers.get(name, ()))
            ]
    return stored


class _Sizes:
    """Bytes of tensors by name."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, int]) -> None:
        self._path, self._shapes, self._types = path, shapes, types

    def of(self, name: str) -> int:
        if name not in self._shapes:
            raise BenchmarkError(
                f"{self._path}: its work cannot be counted: the shape of {name!r} is unknown"
            )
        itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(self._types[name]).itemsize
        return prod(self._shapes[name]) * itemsize


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Those that a caller gives; old files list their weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _weights(model: onnx.ModelProto) -> Iterator[str]:
    """Initializers that any node reads, and constants, in the type in which the file holds them."""
    read = {name for node in model.graph.node for name in node.input}
    yield from (tensor.name for tensor in model.graph.initializer if tensor.name in read)
    yield from (node.output[0] for node in model.graph.node if node.op_type == "Constant")
