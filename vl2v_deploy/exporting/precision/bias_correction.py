"""Biases that make up for rounded weights.

A weight that is rounded moves its layer's answers by its error times its input, on average by its error times
the input's mean. That much is added to the layer's bias, so that the mean of the layer's answers stays.

Source: Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019), section 4.2, with means measured on calibration images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.client.student import open_session
from vl2v_deploy.exporting.graph.macs import LAYERS
from vl2v_deploy.exporting.precision.saturation import output_axis

BATCH = 16
Means = Mapping[str, npt.NDArray[np.float64]]


def input_means(model: onnx.ModelProto, images: Pixels) -> Means:
    """The mean of each input channel of every layer with weights, by the layer's name; each (I,).

    model:  the fp32 graph
    images: uint8 (N, S, S, 3)
    """
    measuring = onnx.ModelProto()
    measuring.CopyFrom(model)
    graph, outputs = measuring.graph, {}
    del graph.output[:]
    for node, weight in layers_with_weights(model):
        outputs[node.name] = mean = f"{node.name}_input_mean"
        axes = [0, *range(2, weight.ndim)] if node.op_type == "Conv" else [0]
        graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{mean}_axes"))
        source = node.input[0]
        if node.op_type != "Conv":  # (..., I) of any rank
            graph.node.append(helper.make_node("Flatten", [source], [f"{mean}_rows"], axis=-1))
            source = f"{mean}_rows"
        graph.node.append(helper.make_node("ReduceMean", [source, f"{mean}_axes"], [mean], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, None))
    if not outputs:
        return {}
    session = open_session(measuring.SerializeToString())
    sums = [np.zeros(1)] * len(outputs)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        means = session.run(list(outputs.values()), {"images": batch})
        sums = [total + len(batch) * mean.astype(np.float64) for total, mean in zip(sums, means, strict=True)]
    return {name: total / len(images) for name, total in zip(outputs, sums, strict=True)}


def layers_with_weights(model: onnx.ModelProto) -> list[tuple[NodeProto, npt.NDArray[np.float32]]]:
    """The layers of an fp32 graph whose second input is stored in it, with that."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        (node, numpy_helper.to_array(stored[node.input[1]]))
        for node in model.graph.node
        if node.op_type in LAYERS and node.input[1] in stored
    ]


def correct_bias(
    graph: onnx.GraphProto, node: NodeProto, error: npt.NDArray[np.float32], mean: npt.NDArray[np.float64]
) -> None:
    """Add to the bias of a layer what rounding its weights takes from its mean answer, or make one.

    error: the weight as it was, less what rounding made of it; of the weight's shape
    mean:  of each input channel, (I,)
    """
    missing = _missing(node, error.astype(np.float64), mean).astype(np.float32)  # (O,)
    name = f"{node.name}_bias_corrected"
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if node.op_type == "MatMul":
        reader, slot = _bias_of_matmul(graph, node, stored)
        if reader is None:
            _add_after(graph, node, name)
        else:
            missing, reader.input[slot] = missing + numpy_helper.to_array(stored[reader.input[slot]]), name
    elif len(node.input) > 2 and node.input[2]:
        missing, node.input[2] = missing + numpy_helper.to_array(stored[node.input[2]]), name
    else:
        node.input[:] = [*node.input[:2], name]
    graph.initializer.append(numpy_helper.from_array(missing.astype(np.float32), name))


def _missing(
    node: NodeProto, error: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Of each output channel, what is lost of its mean; (O,)."""
    if node.op_type != "Conv":
        rows = error.T if output_axis(node) == 1 else error  # (O, I)
        return np.asarray((rows * mean).sum(axis=1))
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2)  # (O, I / groups)
    groups = len(mean) // error.shape[1]
    by_group = np.repeat(mean.reshape(groups, -1), len(error) // groups, axis=0)  # (O, I / groups)
    return np.asarray((taps * by_group).sum(axis=1))


def _bias_of_matmul(
    graph: onnx.GraphProto, node: NodeProto, stored: Mapping[str, TensorProto]
) -> tuple[NodeProto | None, int]:
    """The addition of a stored vector that alone reads a MatMul's answer, and which of its inputs that is."""
    readers = [reader for reader in graph.node if node.output[0] in reader.input]
    if len(readers) == 1 and readers[0].op_type == "Add":
        for slot, name in enumerate(readers[0].input):
            if name in stored and len(stored[name].dims) == 1:
                return readers[0], slot
    return None, 0


def _add_after(graph: onnx.GraphProto, node: NodeProto, bias: str) -> None:
    """Let a new addition of `bias` stand between a layer and all that reads it."""
    answer, bare = node.output[0], f"{node.output[0]}_without_bias"
    node.output[0] = bare
    added = helper.make_node("Add", [bare, bias], [answer], name=f"{node.name}_bias")
    graph.node.insert(list(graph.node).index(node) + 1, added)
