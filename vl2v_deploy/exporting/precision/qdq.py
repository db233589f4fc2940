"""Q/DQ pairs around the layers of an fp32 graph: int8 as runtimes read it.

Weights are int8 by output channel, symmetric, with scales that keep a rule of `saturation`; biases stay float
and make up for the rounding of the weights. Of the activations there are two forms:

int8            uint8 with a zero point, which onnxruntime and OpenVINO fuse with ReLUs into int8 kernels
int8-symmetric  int8 without one, since TensorRT refuses zero points; onnxruntime runs it slower than fp32.
                Attention multiplies two activations, which OpenVINO would saturate like weights: the second
                gets seven bits
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import PrecisionError
from vl2v_deploy.exporting.graph.macs import LAYERS
from vl2v_deploy.exporting.graph.student_graph import classifier_layers
from vl2v_deploy.exporting.precision.bias_correction import Means, correct_bias, layers_with_weights
from vl2v_deploy.exporting.precision.calibration import CALIBRATIONS, Calibration, ranges_by_method
from vl2v_deploy.exporting.precision.saturation import (
    LARGEST_OF_SEVEN_BITS,
    WeightRule,
    output_axis,
    weight_scales,
)

# Beside the layers, what stands between them in a convolutional net, so that values stay int8 from layer to
# layer. A transformer's additions carry its residual stream, which eight bits do not hold.
BETWEEN_CONVOLUTIONS = ("Add", "AveragePool", "Clip", "GlobalAveragePool", "MaxPool", "Relu")
# TensorRT refuses int32 biases too, and onnxruntime quantizes float ones itself.
_OPTIONS: dict[str, Any] = {"WeightSymmetric": True, "QuantizeBias": False}


def calibrated_ranges(
    model: onnx.ModelProto, images: Pixels, advance: Callable[[str], None] = lambda _: None
) -> dict[Calibration, TensorsData]:
    """Ranges of the tensors that int8 needs, by each calibration method; both forms use the same.

    images:  uint8 (N, S, S, 3), of the sources' training split
    advance: called with what is done next
    """
    advance(f"calibrating by {', '.join(CALIBRATIONS)}")
    return ranges_by_method(model, images, _operators(model))


def quantized(
    model: onnx.ModelProto,
    ranges: TensorsData,
    *,
    symmetric: bool,
    weights: WeightRule,
    means: Means | None = None,
    fp32_layers: Collection[str] = (),
    only: Sequence[str] = (),
) -> onnx.ModelProto:
    """The graph with Q/DQ pairs around its layers.

    ranges:      of the tensors, from calibration
    symmetric:   int8 activations without a zero point, instead of uint8 with one
    weights:     the rule that weights keep
    means:       of the layers' inputs, for the correction of their biases; None = biases stay as they are
    fp32_layers: names of layers that get none
    only:        names of the layers that get them; empty = all
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    excluded = [*fp32_layers, *_between(model, fp32_layers), *classifier_layers(model)]
    excluded += _with_constants(model)
    layers = [
        (node, weight)
        for node, weight in layers_with_weights(copy)
        if node.name not in excluded and (not only or node.name in only)
    ]
    scales = _scaled(copy, layers, weights, means)
    if symmetric:
        scales |= {name: [_seven_bit(ranges[name])] for name in _second_activations(copy)}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(copy),
        True,  # per channel
        False,  # all eight bits, where the scales allow it
        QuantType.QInt8,
        QuantType.QInt8 if symmetric else QuantType.QUInt8,
        ranges,
        list(only),
        excluded,
        list(_operators(model)),
        _options(model) | {"ActivationSymmetric": symmetric, "TensorQuantOverrides": scales},
    )
    quantizer.quantize_model()
    quantizer.model.clean_initializers()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    _require_positive_scales(result)
    return result


def _scaled(
    model: onnx.ModelProto,
    layers: Sequence[tuple[NodeProto, npt.NDArray[np.float32]]],
    rule: WeightRule,
    means: Means | None,
) -> dict[str, list[dict[str, Any]]]:
    """Scales of the layers' weights for onnxruntime's quantizer, by name; `model`'s biases are corrected."""
    scales = {}
    for node, weight in layers:
        channels = weight_scales(node, weight, rule)  # (O,)
        scales[node.input[1]] = _overrides(node, channels)
        if means is not None:
            correct_bias(model.graph, node, weight - _rounded(node, weight, channels), means[node.name])
    return scales


def _overrides(node: NodeProto, scales: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """The scale of each output channel as onnxruntime's quantizer takes it."""
    zero = np.array(0, np.int8)
    channels = [{"scale": np.array(scale), "zero_point": zero} for scale in scales]
    return [{"axis": output_axis(node)} | channels[0], *channels[1:]]


def _second_activations(model: onnx.ModelProto) -> set[str]:
    """The second operands of the products of two activations: attention's keys and values."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in stored
    }


def _seven_bit(activation: TensorData) -> dict[str, Any]:
    """The scale with which what was seen of an activation takes seven bits."""
    largest = max(np.abs(bound).max() for bound in activation.range_value)
    scale = np.float32(largest / LARGEST_OF_SEVEN_BITS or 1)
    return {"scale": np.array(scale), "zero_point": np.array(0, np.int8)}


def _rounded(
    node: NodeProto, weight: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """A weight as it comes out of its DequantizeLinear."""
    shape = [1] * weight.ndim
    shape[output_axis(node)] = -1
    scale = scales.reshape(shape)
    rounded: npt.NDArray[np.float32] = np.round(weight / scale) * scale
    return rounded


def _operators(model: onnx.ModelProto) -> tuple[str, ...]:
    return (*LAYERS, *(BETWEEN_CONVOLUTIONS if _convolutional(model) else ()))


def _options(model: onnx.ModelProto) -> dict[str, Any]:
    """A transformer's layers get their inputs quantized, not their results: nothing int8 follows directly.

    A pair on each side of a Softmax would moreover become onnxruntime's QLinearSoftmax, which gives wrong
    answers in WebAssembly (onnxruntime-web 1.30).
    """
    if _convolutional(model):
        return _OPTIONS
    return _OPTIONS | {"OpTypesToExcludeOutputQuantization": list(LAYERS)}


def _convolutional(model: onnx.ModelProto) -> bool:
    return [node.op_type for node in model.graph.node].count("Conv") > 1  # one is a transformer's patches


def _between(model: onnx.ModelProto, layers: Collection[str]) -> list[str]:
    """What stands right before or after these layers: quantized, it would undo their being in fp32."""
    beside = {
        name for node in model.graph.node if node.name in layers for name in (node.input[0], *node.output)
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type in BETWEEN_CONVOLUTIONS and beside.intersection((*node.input, *node.output))
    ]


def _with_constants(model: onnx.ModelProto) -> list[str]:
    """Additions of a constant, such as GELU's 1: TensorRT takes no quantized scalar, nothing is gained."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name for node in model.graph.node if node.op_type == "Add" and constants.intersection(node.input)
    ]


def _require_positive_scales(model: onnx.ModelProto) -> None:
    """TensorRT refuses a scale of zero, which a dead channel would get."""
    scales = {
        node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    for tensor in model.graph.initializer:
        if tensor.name in scales and tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            if not (values > 0).all():
                raise PrecisionError(
                    f"int8: {tensor.name}: a scale is not positive: TensorRT would refuse it"
                )
