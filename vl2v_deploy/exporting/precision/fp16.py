"""The fp32 graph as an fp16 one: which operations stay in fp32 is measured on real images.

Three reasons keep an operation in fp32; the manifest has the reason for each:
  fixed     what comes before the first layer, Softmax, layer norms, and all from the final normalisation on
  range     a value on real images is larger than 1/8 of fp16's largest
  error     rounding it costs the most accuracy, where the whole graph in fp16 is too far from fp32

onnxruntime's own conversion is not used: it rounds to fp16 between any two operations that are kept in fp32,
so that a value beyond fp16 still overflows.

onnxruntime's CPU kernels keep fp32 between fp16 operations, so a run there would hide what a GPU rounds.
Errors are therefore measured on an emulation: the fp32 graph with every fp16 result rounded to fp16 and back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import ExportError, PrecisionError
from vl2v_deploy.exporting.graph.macs import LAYERS
from vl2v_deploy.exporting.graph.student_graph import classifier_layers
from vl2v_deploy.exporting.precision.calibration import largest_magnitudes
from vl2v_deploy.exporting.precision.sessions import answers
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES

LARGEST = float(np.finfo(np.float16).max)  # 65504
HEADROOM = 8.0  # unseen domains may go further than the calibration images
ALWAYS_FP32 = {
    *("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization"),
    *("Resize", "Range"),  # these take float32 beside their images
}
_BEFORE_FIRST_LAYER = ("Cast", "Sub", "Div", "Mul", "Transpose")


@dataclass(frozen=True)
class Fp16:
    """An fp16 graph, and why each of its fp32 nodes stayed.

    kept:            node name -> reason (fixed, range, error), for every float node left in fp32
    embedding_error: largest difference of an embedding's component from fp32, emulated, on calibration images
    emulated:        the fp32 graph that rounds as the fp16 one does on a GPU
    """

    model: onnx.ModelProto
    kept: dict[str, str]
    embedding_error: float
    emulated: onnx.ModelProto


def to_fp16(model: onnx.ModelProto, images: Pixels) -> Fp16:
    """The fp16 graph: inputs and outputs unchanged, weights and layers in fp16 where possible.

    model:  the fp32 graph
    images: real images of the source domains' training split; uint8 (N, S, S, 3)

    Raises PrecisionError when even fp32 for every operation but the layers leaves too large an error.
    """
    kept = dict.fromkeys(_fixed(model), "fixed") | _out_of_range(model, images)
    _, expected = answers(model, images)

    def error(also: Collection[str] = ()) -> float:
        _, embedding = answers(emulate_fp16(convert_fp16(model, {*kept, *also})), images)
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
    half = convert_fp16(model, kept)
    return Fp16(half, kept, now, emulate_fp16(half))


def convert_fp16(model: onnx.ModelProto, fp32_nodes: Collection[str]) -> onnx.ModelProto:
    """The graph with every other node in fp16; a Cast stands only where an fp16 and an fp32 node meet.

    fp32_nodes: names of the nodes that are left as they are; those that make the outputs must be among them

    Raises ExportError for a graph with subgraphs or constants inside nodes.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    floats = _float_tensors(copy)
    half = {
        name
        for node in copy.graph.node
        if node.name not in fp32_nodes
        for name in node.output
        if name in floats
    }
    weights = _Weights(copy)
    nodes: list[NodeProto] = []
    casts: set[str] = set()
    for node in copy.graph.node:
        is_half = node.name not in fp32_nodes
        for index, name in enumerate(node.input):
            if is_half and name in weights.fp32:
                node.input[index] = weights.in_fp16(name)
            elif name in floats and (name in half) != is_half:
                kind, onnx_type = ("fp16", TensorProto.FLOAT16) if is_half else ("fp32", TensorProto.FLOAT)
                node.input[index] = f"{name}.{kind}"
                if node.input[index] not in casts:
                    casts.add(node.input[index])
                    nodes.append(
                        helper.make_node(
                            "Cast", [name], [node.input[index]], name=f"{name}.to_{kind}", to=onnx_type
                        )
                    )
        if is_half:
            _retype(node)
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    for value in copy.graph.value_info:  # the exporter's shapes: inference does not find all of them again
        if value.name in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    weights.drop_unused()
    return copy


class _Weights:
    """The fp32 initializers of a graph, and their fp16 versions, made when they are first used."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self.fp32 = {
            tensor.name: tensor for tensor in self._graph.initializer if tensor.data_type == TensorProto.FLOAT
        }
        self._fp16: set[str] = set()

    def in_fp16(self, name: str) -> str:
        twin = f"{name}.fp16"
        if twin not in self._fp16:
            self._fp16.add(twin)
            self._graph.initializer.append(numpy_helper.from_array(_rounded(self.fp32[name]), twin))
        return twin

    def drop_unused(self) -> None:
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _rounded(tensor: TensorProto) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # infinite in fp16: the range rule keeps such weights out
        return np.asarray(numpy_helper.to_array(tensor).astype(np.float16))


def _retype(node: NodeProto) -> None:
    """A Cast to float makes fp16 now; no other node has a type in its attributes."""
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.TENSOR):
            raise ExportError(f"fp16: {node.name}: {node.op_type} holds a graph or constant: not supported")
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def emulate_fp16(half: onnx.ModelProto) -> onnx.ModelProto:
    """An fp16 graph as an fp32 one that rounds every fp16 result to fp16, as a GPU would store it.

    half: what `convert_fp16` gave
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(half)
    rounded = _tensors_of_type(copy, TensorProto.FLOAT16)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    nodes: list[NodeProto] = []
    for node in copy.graph.node:
        if node.op_type == "Cast" and node.output[0] in rounded:
            nodes += _rounding(node.input[0], node.output[0])
        elif _casts_to_fp32(node) and node.input[0] in rounded:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        else:
            nodes.append(node)
            for index, name in enumerate(node.output):
                if name in rounded:
                    node.output[index] = f"{name}.exact"
                    nodes += _rounding(f"{name}.exact", name)
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    return copy


def _casts_to_fp32(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == TensorProto.FLOAT for attribute in node.attribute
    )


def _rounding(source: str, target: str) -> list[NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}.half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{target}.half"], [target], to=TensorProto.FLOAT),
    ]


def _fixed(model: onnx.ModelProto) -> list[str]:
    """Nodes that always stay fp32: input scaling, normalisations, Softmax, and the last operations."""
    graph = model.graph
    names = {node.name for node in graph.node if node.op_type in ALWAYS_FP32}
    pixels = {graph.input[0].name}
    for node in graph.node:  # in the order of computation
        if node.op_type in _BEFORE_FIRST_LAYER and node.input[0] in pixels:
            names.add(node.name)
            pixels.update(node.output)
    producer = {name: node for node in graph.node for name in node.output}
    classifier = classifier_layers(model)
    waiting = [output.name for output in graph.output]
    while waiting:
        found = producer.get(waiting.pop())
        if found is None or found.name in names or (_is_layer(found) and found.name not in classifier):
            continue
        names.add(found.name)
        waiting += found.input
    return [node.name for node in graph.node if node.name in names]


def _out_of_range(model: onnx.ModelProto, images: Pixels) -> dict[str, str]:
    magnitudes = largest_magnitudes(model, images) | {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
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
    return node.op_type in LAYERS


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    return _tensors_of_type(model, TensorProto.FLOAT)


def _tensors_of_type(model: onnx.ModelProto, onnx_type: int) -> set[str]:
    """Names of the inputs and results of this type."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx_type
    }
