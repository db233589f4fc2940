"""A student-shaped graph in every form that TensorRT has to take, or must refuse.

images: uint8 (batch, 8, 8, 3) -> Conv, Relu, Conv with a residual, mean, Gemm -> logits (batch, 5), embedding
(batch, 16). The forms differ in precision and in how Q/DQ are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIZE_PX, CLASSES, EMBEDDING = 8, 5, 16
SCALE = 4.0  # of every quantized activation: pixels go up to 255, and what follows is as wide


@dataclass
class Form:
    """How the graph is written.

    precision:   of the floating work
    activations: Q/DQ before each layer, or none
    zero_point:  of those
    weights:     'int8' = stored as int8 with a DequantizeLinear, 'qdq' = float with both
    bias:        'int32' = a DequantizeLinear of int32, as onnxruntime's quantizer writes it
    shared:      one Q/DQ pair for both consumers of the residual, or one each
    dead:        the scale of one channel is zero
    early:       the uint8 image is transposed before it is cast
    constant:    shape of a quantized constant that is added, as in a quantized GELU's Erf + 1
    """

    precision: Literal["fp32", "fp16"] = "fp32"
    activations: Literal["none", "int8", "uint8"] = "none"
    zero_point: int = 0
    weights: Literal["float", "int8", "qdq"] = "float"
    bias: Literal["float", "int32", "none"] = "float"
    shared: bool = True
    dead: bool = False
    early: bool = False
    constant: tuple[int, ...] | None = None
    opset: int = 18
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)


INT8 = {"activations": "int8", "weights": "int8"}


def write_graph(path: Path, form: Form | None = None) -> Path:
    """The graph as a checked ONNX file; the weights are the same for every form."""
    form = form or Form()
    rng = np.random.default_rng(0)
    kind = TensorProto.FLOAT16 if form.precision == "fp16" else TensorProto.FLOAT
    if form.early:
        _add(form, "Transpose", ["images"], "nchw", perm=[0, 3, 1, 2])
        _add(form, "Cast", ["nchw"], "x", to=kind)
    else:
        _add(form, "Cast", ["images"], "cast", to=kind)
        _add(form, "Transpose", ["cast"], "x", perm=[0, 3, 1, 2])
    first = _layer(form, rng, "Conv", _activation(form, "x", "a0"), (16, 3, 3, 3), "c1", pads=[1, 1, 1, 1])
    _add(form, "Relu", [first], "r1")
    left = _activation(form, "r1", "a1")
    right = left if form.shared else _activation(form, "r1", "a2")
    second = _layer(form, rng, "Conv", left, (16, 16, 3, 3), "c2", pads=[1, 1, 1, 1])
    _add(form, "Add", [second, right], "sum")
    total = "sum" if form.constant is None else _plus_constant(form, form.constant)
    _add(form, "GlobalAveragePool", [total], "pooled")
    _add(form, "Flatten", ["pooled"], "flat")
    _layer(form, rng, "Gemm", _activation(form, "flat", "a3"), (CLASSES, EMBEDDING), "g", transB=1)
    _add(form, "Cast", ["g"], "logits", to=TensorProto.FLOAT)
    _add(form, "Cast", ["flat"], "embedding", to=TensorProto.FLOAT)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        form.nodes,
        "student",
        [value("images", TensorProto.UINT8, ["batch", SIZE_PX, SIZE_PX, 3])],
        [
            value("logits", TensorProto.FLOAT, ["batch", CLASSES]),
            value("embedding", TensorProto.FLOAT, ["batch", EMBEDDING]),
        ],
        form.constants,
    )
    opset = helper.make_opsetid("", form.opset)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _add(form: Form, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
    form.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
    return output


def _constant(form: Form, name: str, value: object, dtype: type) -> str:
    form.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def _activation(form: Form, source: str, name: str) -> str:
    if form.activations == "none":
        return source
    scale = _constant(form, f"{name}_scale", SCALE, np.float32)
    zero = _constant(form, f"{name}_zero", form.zero_point, np.dtype(form.activations).type)
    quantized = _add(form, "QuantizeLinear", [source, scale, zero], f"{name}_q")
    return _add(form, "DequantizeLinear", [quantized, scale, zero], name)


def _plus_constant(form: Form, shape: tuple[int, ...]) -> str:
    held = _constant(form, "one_q", np.full(shape, 100), np.int8)
    scale = _constant(form, "one_scale", 0.01, np.float32)
    return _add(form, "Add", ["sum", _add(form, "DequantizeLinear", [held, scale], "one")], "sum_plus_one")


def _layer(
    form: Form,
    rng: np.random.Generator,
    operator: str,
    source: str,
    shape: tuple[int, ...],
    name: str,
    **attributes: object,
) -> str:
    weight = rng.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
    peaks = np.abs(weight).max(axis=tuple(range(1, len(shape))))  # (C,)
    scales = np.where(np.arange(len(peaks)) == 1, 0, peaks / 127) if form.dead else peaks / 127
    inputs = [source, _weight(form, weight, scales, name)]
    bias = rng.normal(size=shape[0]) * 0.1
    if form.bias == "float":
        inputs.append(
            _constant(form, f"{name}_bias", bias, np.float16 if form.precision == "fp16" else np.float32)
        )
    elif form.bias == "int32":
        held = _constant(form, f"{name}_bias_q", np.round(bias / (SCALE * scales)), np.int32)
        scale = _constant(form, f"{name}_bias_scale", SCALE * scales, np.float32)
        inputs.append(_add(form, "DequantizeLinear", [held, scale], f"{name}_bias", axis=0))
    return _add(form, operator, inputs, name, **attributes)


def _weight(form: Form, weight: np.ndarray, scales: np.ndarray, name: str) -> str:
    if form.weights == "float":
        return _constant(form, f"{name}_w", weight, np.float16 if form.precision == "fp16" else np.float32)
    scale = _constant(form, f"{name}_scale", scales, np.float32)
    zero = _constant(form, f"{name}_zero", np.zeros(len(scales)), np.int8)
    if form.weights == "int8":
        wide = np.maximum(scales, 1e-9).reshape(-1, *[1] * (weight.ndim - 1))
        held = _constant(form, f"{name}_w_q", np.clip(np.round(weight / wide), -127, 127), np.int8)
    else:
        plain = _constant(form, f"{name}_w_f", weight, np.float32)
        held = _add(form, "QuantizeLinear", [plain, scale, zero], f"{name}_w_q", axis=0)
    return _add(form, "DequantizeLinear", [held, scale, zero], f"{name}_w", axis=0)
