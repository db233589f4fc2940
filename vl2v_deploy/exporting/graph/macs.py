"""Proof of precision: how many multiply-accumulates a graph does in which type.

Counted from the graph's own types and shapes for one image. A convolution or matrix product counts as int8
when each of its two operands comes out of a DequantizeLinear: by this runtimes recognise one that may run in
int8. Everything else counts by the type of its operands. Element-wise work has no MACs.

What cannot be counted is named, with the reason: it keeps no fp32 file from being written, but a file of
another precision is not proven by the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, TypeAlias

import onnx
from onnx import NodeProto, TensorProto

from vl2v_deploy.client.onnx_file import MacShares
from vl2v_deploy.exporting.graph.shapes import Shapes, shapes_and_types

ComputeType: TypeAlias = Literal["fp32", "fp16", "int8"]
COMPUTE_TYPES: tuple[ComputeType, ...] = ("fp32", "fp16", "int8")
LAYERS = ("Conv", "Gemm", "MatMul")  # what quantizers know
COUNTED = (*LAYERS, "Einsum")
# Operators with MACs that are not counted here: a graph with one must not count as proven.
UNCOUNTED = {
    *("Attention", "ConvInteger", "ConvTranspose", "DeformConv", "GRU", "LSTM", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "RNN"),
}
_OF_ONNX: Mapping[int, ComputeType] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


class _CannotCount(Exception):
    """Why the MACs of a node are not known."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image.

    by_type:   for each type, how many
    by_node:   for each counted node, its type and how many
    uncounted: nodes whose MACs are not known and are in no sum, by the reason
    """

    by_type: dict[ComputeType, int]
    by_node: dict[str, tuple[ComputeType, int]]
    uncounted: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Of the nodes that were counted."""
        return sum(self.by_type.values())

    def share(self, kind: ComputeType) -> float:
        """Share of the counted MACs that are done in this type, in [0, 1]."""
        return self.by_type[kind] / self.total if self.total else 0.0

    def facts(self) -> MacShares:
        """For the manifest: the total, the share of each type, and what is not among them."""
        return MacShares(
            self.total, {kind: self.share(kind) for kind in self.by_type}, self.uncounted or None
        )

    def unproven(self) -> str | None:
        """Why these counts prove no precision, in words; None where every MAC is known."""
        if self.uncounted:
            return f"MACs are not known of {'; '.join(uncounted(self.facts()))}"
        return None if self.by_node else f"the graph holds no {', '.join(COUNTED[:-1])} or {COUNTED[-1]}"


def uncounted(macs: MacShares) -> list[str]:
    """What is not in a count, a line for each reason."""
    return [
        f"{len(nodes)} operation(s) with {reason}, first {nodes[0]}"
        for reason, nodes in (macs.uncounted or {}).items()
    ]


def count_macs(model: onnx.ModelProto) -> Macs:
    """The MACs of a graph whose first input dimension is the batch, which counts as 1; refuses none."""
    shapes, types = shapes_and_types(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    by_node: dict[str, tuple[ComputeType, int]] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.op_type not in (*COUNTED, *UNCOUNTED):
            continue
        # ONNX lets nodes go without a name: those of other exporters would overwrite each other.
        name = node.name or node.output[0]
        try:
            kind = "int8" if dequantized.issuperset(node.input[:2]) else _float_type(node, types)
            by_node[name] = (kind, _macs(node, shapes))
        except _CannotCount as reason:
            unknown[str(reason)] = (*unknown.get(str(reason), ()), name)
    totals: Counter[ComputeType] = Counter()
    for kind, macs in by_node.values():
        totals[kind] += macs
    return Macs({kind: totals[kind] for kind in COMPUTE_TYPES}, by_node, unknown)


def _macs(node: NodeProto, shapes: Shapes) -> int:
    if node.op_type in UNCOUNTED:
        raise _CannotCount(f"operator {node.op_type}, which is not counted")
    operands = node.input[:2] if node.op_type in LAYERS else node.input
    if not shapes.keys() >= {*operands, node.output[0]}:
        raise _CannotCount("a shape that cannot be inferred")
    first, output = shapes[node.input[0]], prod(shapes[node.output[0]])
    match node.op_type:
        case "Einsum":
            return _macs_of_einsum(
                _attribute(node, "equation").s.decode(), [shapes[name] for name in operands]
            )
        case "Conv":
            # weight (C_out, C_in / groups, ...): MACs an output value
            return output * prod(shapes[node.input[1]][1:])
        case "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            return output * shapes[node.input[1]][1 if transposed else 0]
        case _:  # MatMul (..., M, K) x (..., K, N)
            return output * first[-1]


def _macs_of_einsum(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """The product of all indices' sizes for two operands; one alone is at most summed."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(shapes) == 1:
        return 0
    if (
        len(shapes) > 2
        or "." in equation
        or [len(term) for term in terms] != [len(shape) for shape in shapes]
    ):
        raise _CannotCount(f"an Einsum of the form {equation}, which is not counted")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))  # an index of size 1 is broadcast
    return prod(sizes.values())


def _attribute(node: NodeProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == name)


def _float_type(node: NodeProto, types: Mapping[str, int]) -> ComputeType:
    onnx_type = types.get(node.input[min(1, len(node.input) - 1)], TensorProto.UNDEFINED)
    if onnx_type not in _OF_ONNX:
        raise _CannotCount(
            f"type {TensorProto.DataType.Name(onnx_type)}, which is none of fp32, fp16 and int8"
        )
    return _OF_ONNX[onnx_type]
