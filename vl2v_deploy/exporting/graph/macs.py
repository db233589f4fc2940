"""Proof of precision: how many multiply-accumulates a graph does in which type.

Counted from the graph's own types and shapes for one image. A convolution or matrix product counts as int8
when each of its two operands comes out of a DequantizeLinear: by this runtimes recognise one that may run in
int8. Everything else counts by the type of its operands. Element-wise work has no MACs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

import onnx
from onnx import NodeProto, TensorProto

from vl2v_deploy.client.onnx_file import MacShares
from vl2v_deploy.errors import ExportError

ComputeType: TypeAlias = Literal["fp32", "fp16", "int8"]
COMPUTE_TYPES: tuple[ComputeType, ...] = ("fp32", "fp16", "int8")
COUNTED = ("Conv", "Gemm", "MatMul")
# Operators with MACs that are not counted here: a graph with one must not count as proven.
UNCOUNTED = {
    *("Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "RNN"),
}
_OF_ONNX: Mapping[int, ComputeType] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image.

    by_type: for each type, how many
    by_node: for each counted node, its type and how many
    """

    by_type: dict[ComputeType, int]
    by_node: dict[str, tuple[ComputeType, int]]

    @property
    def total(self) -> int:
        return sum(self.by_type.values())

    def share(self, kind: ComputeType) -> float:
        """Share of the MACs done in this type, in [0, 1]."""
        return self.by_type[kind] / self.total

    def facts(self) -> MacShares:
        """For the manifest: the total, and the share of each type."""
        return MacShares(self.total, {kind: self.share(kind) for kind in self.by_type})


def count_macs(model: onnx.ModelProto) -> Macs:
    """The MACs of a graph whose first input dimension is the batch, which counts as 1.

    Raises ExportError for an operator that holds MACs and is not counted, or a shape that cannot be inferred.
    """
    shapes, types = shapes_and_types(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    by_node: dict[str, tuple[ComputeType, int]] = {}
    for node in model.graph.node:
        if node.op_type in UNCOUNTED:
            raise ExportError(
                f"{node.name}: operator {node.op_type} is not counted, so the precision of this graph cannot "
                f"be proven; counted are: {', '.join(COUNTED)}"
            )
        if node.op_type in COUNTED:
            operands = node.input[:2]
            kind = "int8" if dequantized.issuperset(operands) else _float_type(node, types.get(operands[1]))
            # ONNX lets nodes go without a name: those of other exporters would overwrite each other.
            by_node[node.name or node.output[0]] = (kind, _macs(node, shapes))
    if not by_node:
        raise ExportError("the graph holds no Conv, Gemm or MatMul: its precision cannot be proven")
    totals: Counter[ComputeType] = Counter()
    for kind, macs in by_node.values():
        totals[kind] += macs
    return Macs({kind: totals[kind] for kind in COMPUTE_TYPES}, by_node)


def _macs(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    for name in (*node.input[:2], node.output[0]):
        if name not in shapes:
            raise ExportError(f"{node.name}: the shape of {name!r} cannot be inferred")
    second, output = shapes[node.input[1]], prod(shapes[node.output[0]])
    match node.op_type:
        case "Conv":
            return output * prod(second[1:])  # weight (C_out, C_in / groups, ...): MACs an output value
        case "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            return output * second[1 if transposed else 0]
        case _:  # MatMul (..., M, K) x (..., K, N)
            return output * shapes[node.input[0]][-1]


def _float_type(node: NodeProto, onnx_type: int | None) -> ComputeType:
    if onnx_type is None or onnx_type not in _OF_ONNX:
        raise ExportError(f"{node.name}: computes in ONNX type {onnx_type}: neither fp32, fp16 nor int8")
    return _OF_ONNX[onnx_type]


def shapes_and_types(
    model: onnx.ModelProto,
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape of every tensor where it is known once the batch is 1, and ONNX type of every tensor."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    # What the exporter noted knows the batch as a symbol; inferred again it is a number.
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    graph = inferred.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor_type = value.type.tensor_type
        types[value.name] = tensor_type.elem_type
        dims = tensor_type.shape.dim
        if tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes, types
