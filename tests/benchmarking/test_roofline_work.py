"""Work of a graph: counted by hand for small ones, and held against what the bytes of real files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.onnx_students import student_graph
from vl2v_deploy.benchmarking.measure.machine import count_work
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.exporting.graph.macs import count_macs

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def saved(
    folder: Path,
    nodes: list[onnx.NodeProto],
    given: list[tuple[str, int, list[int | str]]],
    wanted: list[tuple[str, int, list[int | str]]],
    weights: dict[str, np.ndarray],
) -> Path:
    """A graph's file; `given` and `wanted` are its inputs and outputs: name, type, shape."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in given],
        [helper.make_tensor_value_info(*value) for value in wanted],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    onnx.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def test_convolutions_dense_and_depthwise(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "dense", "bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "depthwise"], ["c"], group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["y"]),
    ]
    weights = {
        "dense": np.ones((8, 3, 3, 3), np.float32),
        "bias": np.ones(8, np.float32),
        "depthwise": np.ones((8, 1, 3, 3), np.float32),
        "unread": np.ones(99, np.float32),
    }
    shape: list[int | str] = ["batch", 3, 6, 6]
    work = count_work(saved(tmp_path, nodes, [("x", FLOAT, shape)], [("y", FLOAT, ["batch", 8])], weights))
    dense, depthwise = 8 * 6 * 6 * 3 * 9, 8 * 3 * 3 * 9
    assert work.flops == {"fp32": 2 * (dense + depthwise)}
    assert work.weight_bytes == 4 * (8 * 3 * 9 + 8 + 8 * 9)
    assert work.input_output_bytes == 4 * (3 * 36 + 8)


def test_half_precision_and_a_constant(tmp_path: Path) -> None:
    constant = numpy_helper.from_array(np.ones(3, np.float16))
    nodes = [
        helper.make_node("Constant", [], ["k"], value=constant),
        helper.make_node("Cast", ["x"], ["a"], to=HALF),
        helper.make_node("Mul", ["a", "k"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=FLOAT),
    ]
    given: list[tuple[str, int, list[int | str]]] = [("x", TensorProto.UINT8, ["batch", 3])]
    weights = {"w": np.ones((3, 7), np.float16)}
    work = count_work(saved(tmp_path, nodes, given, [("y", FLOAT, ["batch", 7])], weights))
    assert work.flops == {"fp16": 2 * 3 * 7}
    assert work.weight_bytes == 2 * 21 + 2 * 3
    assert work.input_output_bytes == 3 + 4 * 7


def test_quantized_tensors_count_as_they_are_stored(tmp_path: Path) -> None:
    """x -> Q -> [dq] conv -> Q -> [dq] conv -> y: between the layers lie eight bits, once."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "s", "z"], ["ad"]),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd2"]),
        helper.make_node("Conv", ["ad", "wd2"], ["y"]),
    ]
    weights = {
        "w": np.ones((4, 4, 1, 1), np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "wz": np.array(0, np.int8),
    }
    shape: list[int | str] = ["batch", 4, 5, 5]
    path = saved(tmp_path, nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], weights)
    work = count_work(path)
    assert work.flops == {"int8": 2 * 2 * 4 * 25 * 4}
    assert work.weight_bytes == 16 + 4 + 1 + 1
    assert work.input_output_bytes == 4 * 200


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_of_a_real_student(backbone: str, tmp_path: Path) -> None:
    _, model = student_graph(backbone)
    onnx.save(model, tmp_path / "student.onnx")
    work = count_work(tmp_path / "student.onnx")
    assert work.flops == {"fp32": 2 * count_macs(model).total}
    [images, logits, embedding] = [
        [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert work.input_output_bytes == np.prod(images) + 4 * np.prod(logits) + 4 * np.prod(embedding)
    # the file is its weights and little else, and never less
    assert 0 < model.ByteSize() - work.weight_bytes < 100_000


def test_what_cannot_be_counted_names_the_file(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = saved(tmp_path, nodes, [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])], {})
    with pytest.raises(BenchmarkError, match=r"graph\.onnx: its work cannot be counted"):
        count_work(path)
