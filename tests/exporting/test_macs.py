"""Proof of precision: the MACs of a graph, by type, against torch's own count."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.onnx_students import pictures, student_graph
from vl2v_deploy.errors import PrecisionError
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.precision.precisions import require_precision


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit", "test_resnet"])
def test_the_count_is_torchs(backbone: str) -> None:
    student, model = student_graph(backbone)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(torch.from_numpy(pictures(1)))
    macs = count_macs(model)
    assert 2 * macs.total == counter.get_total_flops()
    assert macs.share("fp32") == 1.0


def graph(
    second: onnx.TensorProto, operator: str = "MatMul", dtype: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x", second.name], ["y"], name="layer")
    inputs = [helper.make_tensor_value_info("x", dtype, ["batch", 3, 4])]
    outputs = [helper.make_tensor_value_info("y", dtype, ["batch", 3, 5])]
    made = helper.make_graph([node], "g", inputs, outputs, [second])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


def test_types_and_a_batched_product() -> None:
    weight = np.ones((4, 5))
    half = graph(numpy_helper.from_array(weight.astype(np.float16), "w"), dtype=TensorProto.FLOAT16)
    assert count_macs(half).by_type == {"fp32": 0, "fp16": 3 * 4 * 5, "int8": 0}
    double = graph(numpy_helper.from_array(weight, "w"), dtype=TensorProto.DOUBLE)
    assert count_macs(double).uncounted == {"type DOUBLE, which is none of fp32, fp16 and int8": ("layer",)}


def quantized_graph(activation_too: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["dw"]),
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["dx"]),
        helper.make_node("MatMul", ["dx" if activation_too else "x", "dw"], ["y"], name="layer"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(np.ones((4, 5), np.int8), "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


def test_int8_is_only_what_has_both_operands_in_int8() -> None:
    assert count_macs(quantized_graph(True)).by_type == {"fp32": 0, "fp16": 0, "int8": 20}
    # int8 weights alone save memory; the product is computed in fp32
    assert count_macs(quantized_graph(False)).by_type == {"fp32": 20, "fp16": 0, "int8": 0}


def test_nodes_without_a_name_are_counted_each() -> None:
    made = graph(numpy_helper.from_array(np.ones((4, 5), np.float32), "w"))
    made.graph.node.insert(0, helper.make_node("MatMul", ["x", "v"], ["z"]))
    made.graph.node.insert(1, helper.make_node("MatMul", ["x", "v"], ["unused"]))
    made.graph.node[2].input[0] = "z"
    made.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "v"))
    macs = count_macs(made)
    assert macs.total == 3 * (4 * 4 + 4 * 4 + 4 * 5)
    assert macs.by_node["z"] == ("fp32", 3 * 4 * 4)


def test_what_is_not_counted_is_said_and_proves_no_precision() -> None:
    made = graph(numpy_helper.from_array(np.ones((4, 5), np.float32), "w"))
    made.graph.node[0].op_type = "ConvTranspose"
    macs = count_macs(made)
    reason = "operator ConvTranspose, which is not counted"
    assert (macs.total, macs.uncounted) == (0, {reason: ("layer",)})
    assert macs.facts().uncounted == {reason: ("layer",)}
    with pytest.raises(PrecisionError, match=r"student\.fp16\.onnx: .* 1 operation\(s\) with operator"):
        require_precision("fp16", macs, 0.2)
    require_precision("fp16", macs, 1.0)  # allowed
    require_precision("fp32", macs, 0.2)  # fp32 needs no proof
    made.graph.node[0].op_type = "Identity"
    del made.graph.node[0].input[1:]
    made.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 4
    with pytest.raises(PrecisionError, match="holds no Conv, Gemm, MatMul or Einsum"):
        require_precision("int8", count_macs(made), 0.2)


def test_a_file_that_is_not_what_its_name_says_fails() -> None:
    macs = count_macs(quantized_graph(False))
    with pytest.raises(PrecisionError, match=r"student\.int8\.onnx: 100\.0 % .* layer \(100 %\); raise"):
        require_precision("int8", macs, 0.2)
    require_precision("int8", macs, 1.0)  # allowed
    require_precision("fp32", macs, 0.2)
