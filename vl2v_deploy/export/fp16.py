"""The fp32 graph as an fp16 one: which operations stay in fp32 is measured on real images.

Three reasons keep an operation in fp32, and the manifest names the reason of each:
  fixed     what comes before the first layer, Softmax, layer norms, and all from the final normalisation on
  range     a value on real images comes within 8 x of fp16's largest
  error     rounding it costs more than the rest together, found where all of fp16 is too far from fp32

onnxruntime's CPU kernels keep fp32 between fp16 operations, so a run there would hide what a GPU rounds.
Errors are therefore measured on an emulation: the fp32 graph with every fp16 result rounded to fp16 and back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers import float16

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import PrecisionError
from vl2v_deploy.export.calibration import largest_magnitudes
from vl2v_deploy.export.graph import CLASSIFIER
from vl2v_deploy.export.macs import COUNTED
from vl2v_deploy.export.parity import TOLERANCES
from vl2v_deploy.export.sessions import answers

LARGEST = float(np.finfo(np.float16).max)  # 65504
HEADROOM = 8.0  # unseen domains may go further than the calibration images
ALWAYS_FP32 = ("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization")
_BEFORE_FIRST_LAYER = ("Cast", "Sub", "Div", "Mul", "Transpose")


@dataclass(frozen=True)
class Fp16:
    """An fp16 graph and why it is as it is.

    kept:            node name -> reason (fixed, range, error), for every float node left in fp32
    embedding_error: largest difference of an embedding's component from fp32, emulated, on calibration images
    emulated:        the fp32 graph that rounds as the fp16 one does on a GPU
    """

    model: onnx.ModelProto
    kept: dict[str, str]
    embedding_error: float
    emulated: onnx.ModelProto


def to_fp16(model: onnx.ModelProto, images: Pixels) -> Fp16:
    """The fp16 graph: inputs and outputs unchanged, weights and layers in fp16 but for what must not be.

    model:  the fp32 graph
    images: real images of the source domains' training split; uint8 (N, S, S, 3)

    Raises PrecisionError when even fp32 for every operation but the layers leaves too large an error.
    """
    kept = dict.fromkeys(_fixed(model), "fixed") | _out_of_range(model, images)
    _, expected = answers(model, images)

    def error(also: Collection[str] = ()) -> float:
        emulated = emulate_fp16(model, {*kept, *also})
        _, embedding = answers(emulated, images)
        difference = float(np.abs(embedding - expected).max())
        return difference if np.isfinite(difference) else float("inf")

    # Half the tolerance: the images of parity are others.
    allowed = TOLERANCES["onnxruntime", "fp16"].embedding / 2
    now = error()
    while now > allowed:
        by_type = _candidates(model, kept)
        errors = {operator: error(names) for operator, names in by_type.items()}
        best = min(errors, key=lambda operator: errors[operator], default=None)
        if best is None or not errors[best] < now:
            raise PrecisionError(
                f"fp16: the embedding is off by {now:.2e} (allowed {allowed:.0e}) with all but the layers "
                "in fp32: this student cannot run in fp16; export fp32 or int8"
            )
        kept |= dict.fromkeys(by_type[best], "error")
        now = errors[best]
    return Fp16(_converted(model, kept), kept, now, emulate_fp16(model, kept))


def emulate_fp16(model: onnx.ModelProto, fp32_nodes: Collection[str]) -> onnx.ModelProto:
    """The fp32 graph with weights and results of every other node rounded to fp16, as a GPU would store them.

    fp32_nodes: names of the nodes that are left as they are
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    floats = _float_tensors(copy)
    rounded_nodes = [node for node in copy.graph.node if node.name not in fp32_nodes]
    of_rounded = {name for node in rounded_nodes for name in node.input}
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in of_rounded:
            value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    nodes: list[NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name in fp32_nodes:
            continue
        for index, name in enumerate(node.output):
            if name not in floats:
                continue
            exact, half = f"{name}.exact", f"{name}.half"
            node.output[index] = exact
            nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _converted(model: onnx.ModelProto, kept: Mapping[str, str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converted: onnx.ModelProto = float16.convert_float_to_float16(
        copy, keep_io_types=True, node_block_list=list(kept), op_block_list=[]
    )
    return converted


def _fixed(model: onnx.ModelProto) -> list[str]:
    """Nodes that stay fp32 whatever is measured: input scaling, normalisations, Softmax, the way out."""
    graph = model.graph
    names = {node.name for node in graph.node if node.op_type in ALWAYS_FP32}
    pixels = {graph.input[0].name}
    for node in graph.node:  # in the order of computation
        if node.op_type in _BEFORE_FIRST_LAYER and node.input[0] in pixels:
            names.add(node.name)
            pixels.update(node.output)
    producer = {name: node for node in graph.node for name in node.output}
    waiting = [output.name for output in graph.output]
    while waiting:
        found = producer.get(waiting.pop())
        if found is None or found.name in names or (_is_layer(found) and CLASSIFIER not in found.input):
            continue
        names.add(found.name)
        waiting += found.input
    return [node.name for node in graph.node if node.name in names]


def _out_of_range(model: onnx.ModelProto, images: Pixels) -> dict[str, str]:
    magnitudes = largest_magnitudes(model, images)
    return {
        node.name: "range"
        for node in model.graph.node
        if any(magnitudes.get(name, 0.0) > LARGEST / HEADROOM for name in (*node.input, *node.output))
    }


def _candidates(model: onnx.ModelProto, kept: Collection[str]) -> dict[str, list[str]]:
    """Float nodes that are fp16 so far and are no layers, by operator type."""
    floats = _float_tensors(model)
    by_type: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.name not in kept and not _is_layer(node) and floats.intersection(node.output):
            by_type.setdefault(node.op_type, []).append(node.name)
    return by_type


def _is_layer(node: NodeProto) -> bool:
    return node.op_type in COUNTED


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
