"""Int8 weights whose products no x86 processor saturates.

Without VNNI, onnxruntime and OpenVINO multiply uint8 activations by int8 weights with VPMADDUBSW, which adds
two neighbouring products in 16 bits and saturates: 255 * (|w_0| + |w_1|) leaves them where both weights have
the same sign and are together larger than 128. Which weights are neighbours was measured on both runtimes'
kernels for AVX2 and for AVX-512 without VNNI, with one pair of large weights at a time:

onnxruntime  the weights of an output in the order taps, then input channels; of a matrix its rows
OpenVINO     the input channels of each tap; of a grouped convolution also as in onnxruntime
both         a depthwise convolution has no neighbours: its products are added in 32 bits
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, numpy_helper

from vl2v_deploy.exporting.graph.macs import LAYERS

# pairwise: no pair of neighbours saturates. seven-bit: no pair of weights does, in whatever order a kernel
# multiplies them.
WeightRule: TypeAlias = Literal["pairwise", "seven-bit"]
WEIGHT_RULES: tuple[WeightRule, ...] = get_args(WeightRule)
LARGEST_WEIGHT = 127
LARGEST_PAIR = 128  # 255 * 128 is 32,640; 255 * 129 is more than int16's 32,767
LARGEST_OF_SEVEN_BITS = LARGEST_PAIR // 2
# A sum just under the bound cannot be rounded over it: two halves cannot both be rounded up.
_UNDER = 1 + 2.0**-20
Weights: TypeAlias = npt.NDArray[np.floating] | npt.NDArray[np.signedinteger]


def weight_scales(
    node: NodeProto, weight: npt.NDArray[np.float32], rule: WeightRule
) -> npt.NDArray[np.float32]:
    """The scale of each output channel with which its weights keep the rule; float32 (O,), positive.

    node:   the layer: a Conv, Gemm or MatMul
    weight: its second input
    """
    largest = np.abs(by_output(node, weight)).max(axis=1)  # (O,)
    match rule:
        case "pairwise":
            pairs = largest_pairs(node, weight) / LARGEST_PAIR * _UNDER
            scales = np.maximum(largest / LARGEST_WEIGHT, pairs)
        case "seven-bit":
            scales = largest / LARGEST_OF_SEVEN_BITS
    return np.where(scales > 0, scales, 1).astype(np.float32)  # a dead channel's may not be 0


def largest_pairs(node: NodeProto, weight: Weights) -> npt.NDArray[np.float64]:
    """The largest sum of two neighbouring weights of the same sign in each output channel; (O,)."""
    largest = np.zeros(len(by_output(node, weight)))
    for pairs in neighbours(node, weight):  # (O, P, 2)
        for signed in (pairs, -pairs):
            largest = np.maximum(largest, signed.clip(min=0).sum(axis=2).max(axis=1))
    return largest


def neighbours(node: NodeProto, weight: Weights) -> Iterator[npt.NDArray[np.float64]]:
    """The pairs that kernels add in 16 bits, in each order that they are known to use; (O, P, 2)."""
    if is_depthwise(node, weight):
        return
    yield _in_pairs(by_output(node, weight))
    if node.op_type == "Conv" and weight.shape[1] % 2:
        taps = np.moveaxis(weight.reshape(*weight.shape[:2], -1), 1, 2)  # (O, taps, I)
        yield np.concatenate([_in_pairs(taps[:, tap]) for tap in range(taps.shape[1])], axis=1)


def by_output(node: NodeProto, weight: Weights) -> Weights:
    """The weights of each output channel in onnxruntime's order: taps, then input channels; (O, K)."""
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    return weight if output_axis(node) == 0 else np.swapaxes(weight, 0, 1).reshape(weight.shape[1], -1)


def output_axis(node: NodeProto) -> int:
    """The axis of a layer's weight along which its output channels lie."""
    if node.op_type == "Conv":
        return 0
    return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1


def is_depthwise(node: NodeProto, weight: Weights) -> bool:
    """Whether each channel of a convolution has one input channel to itself, and gives one output."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "Conv" and groups > 1 and len(weight) == groups and weight.shape[1] == 1


def layers_that_may_saturate(model: onnx.ModelProto) -> list[str]:
    """Names of the layers of an int8 graph in which two products can leave 16 bits; empty = proven safe."""
    return [
        node.name
        for node, weight in int8_weights(model)
        if largest_pairs(node, weight.astype(np.int16)).max() > LARGEST_PAIR
    ]


def int8_weights(model: onnx.ModelProto) -> Iterator[tuple[NodeProto, npt.NDArray[np.int8]]]:
    """The layers of a Q/DQ graph whose weights are stored in int8, with these weights."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    for node in model.graph.node:
        if node.op_type in LAYERS and (tensor := stored.get(dequantized.get(node.input[1], ""))):
            yield node, numpy_helper.to_array(tensor)


def _in_pairs(weights: Weights) -> npt.NDArray[np.float64]:
    """(O, K) as (O, P, 2); an odd last one beside a zero."""
    padded = np.pad(weights.astype(np.float64), ((0, 0), (0, weights.shape[1] % 2)))
    return padded.reshape(len(weights), -1, 2)
