"""The shape of every tensor of a graph for one image, by what its exporter noted and ONNX's own inference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import onnx
from onnx import TensorShapeProto, ValueInfoProto

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def shapes_and_types(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape of every tensor where it is known once the batch is 1, and ONNX type of every tensor.

    What the exporter noted is used where it is about a batch of any size. ONNX's inference adds the rest, as
    far as it gets: it cannot follow shapes that the graph itself computes.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    batch = _batch_of(fixed.graph)
    noted = [value for value in fixed.graph.value_info if batch and _set_batch(value, batch)]
    del fixed.graph.value_info[:]
    fixed.graph.value_info.extend(noted)
    for value in (*fixed.graph.input, *fixed.graph.output):
        if batch:
            _set_batch(value, batch)
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    # Not strict: where inference fails at a node, the shapes that were noted behind it still stand.
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
        if _is_known(value):
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes, types


def _batch_of(graph: onnx.GraphProto) -> str:
    """The symbol of the batch; empty where it is a number, or has no name."""
    dims = graph.input[0].type.tensor_type.shape.dim
    return dims[0].dim_param if dims else ""


def _set_batch(value: ValueInfoProto, batch: str) -> bool:
    """Put 1 in place of the batch; whether the whole shape is known then."""
    for dim in value.type.tensor_type.shape.dim:
        _set_batch_of(dim, batch)
    return _is_known(value)


def _set_batch_of(dim: TensorShapeProto.Dimension, batch: str) -> None:
    # Windows and heads lie along the batch, as in 64*batch.
    multiple = re.fullmatch(rf"(?:(\d+)\*)?{re.escape(batch)}(?:\*(\d+))?", dim.dim_param)
    if multiple:
        dim.dim_value = int(multiple[1] or 1) * int(multiple[2] or 1)


def _is_known(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
