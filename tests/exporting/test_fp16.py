"""fp16 graphs: what they compute in, what stays fp32 and why, and that a GPU's rounding is measured."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.onnx_students import graph_of, pictures, random_student, student_graph
from vl2v_deploy.client.student import open_session
from vl2v_deploy.errors import PrecisionError
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.graph.student_graph import CLASSIFIER
from vl2v_deploy.exporting.precision import fp16 as fp16_module
from vl2v_deploy.exporting.precision.fp16 import convert_fp16, emulate_fp16, to_fp16
from vl2v_deploy.exporting.precision.sessions import answers

BACKBONES = ["test_efficientnet", "test_vit"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_layers_are_fp16_and_what_must_not_be_is_fp32(backbone: str) -> None:
    _, model = student_graph(backbone)
    made = to_fp16(model, pictures(16))
    onnx.checker.check_model(made.model, full_check=True)
    macs = count_macs(made.model)
    still_fp32 = [name for name, (kind, _) in macs.by_node.items() if kind == "fp32"]
    assert macs.by_type["int8"] == 0 and len(still_fp32) == 1  # the zero-shot classifier
    [classifier] = [tensor for tensor in made.model.graph.initializer if tensor.name == CLASSIFIER]
    assert classifier.data_type == TensorProto.FLOAT
    types = {value.name: value.type.tensor_type.elem_type for value in made.model.graph.output}
    assert types == {"logits": TensorProto.FLOAT, "embedding": TensorProto.FLOAT}
    assert made.model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    operator = {node.name: node.op_type for node in model.graph.node}
    fixed = {operator[name] for name, reason in made.kept.items() if reason == "fixed"}
    assert {"Cast", "ReduceL2", "MatMul"} <= fixed
    if backbone == "test_vit":
        assert {"Softmax", "LayerNormalization"} <= fixed
    assert "Conv" not in fixed
    assert model.ByteSize() > 1.5 * made.model.ByteSize()  # the weights are halved


@pytest.mark.parametrize("backbone", BACKBONES)
def test_answers_stay_near_and_the_emulation_is_the_worse(backbone: str) -> None:
    _, model = student_graph(backbone)
    images = pictures(16, seed=1)
    made = to_fp16(model, pictures(16))
    _, exact = answers(model, images)
    _, here = answers(made.model, images)
    _, emulated = answers(made.emulated, images)
    assert 0 < np.abs(here - exact).max() < 1e-2
    assert 0 < np.abs(emulated - exact).max() < 1e-2
    # onnxruntime keeps fp32 between fp16 operations on this CPU, the emulation rounds each
    assert np.abs(emulated - exact).mean() > np.abs(here - exact).mean()


def test_the_emulation_rounds_each_result_as_fp16_does() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["y"], name="first"),
        helper.make_node("Mul", ["y", "b"], ["z"], name="second"),
        helper.make_node("Identity", ["z"], ["out"], name="last"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n"])],
        [
            numpy_helper.from_array(np.array(1e-4, np.float32), "a"),
            numpy_helper.from_array(np.array(1e4, np.float32), "b"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = np.linspace(0.001, 100, 50, dtype=np.float32)

    def emulated(*fp32_nodes: str) -> np.ndarray:
        graph = emulate_fp16(convert_fp16(model, fp32_nodes))
        [answer] = open_session(graph.SerializeToString()).run(None, {"x": x})
        return np.asarray(answer)

    a, b, half = np.float32(np.float16(1e-4)), np.float32(np.float16(1e4)), np.float16
    in_half = (x.astype(half).astype(np.float32) * a).astype(half).astype(np.float32)
    assert np.array_equal(emulated("last"), (in_half * b).astype(half))
    assert np.array_equal(emulated("second", "last"), in_half * np.float32(1e4))
    assert np.array_equal(emulated("first", "second", "last"), x * np.float32(1e-4) * np.float32(1e4))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_casts_stand_only_where_types_meet(backbone: str) -> None:
    _, model = student_graph(backbone)
    made = to_fp16(model, pictures(8)).model
    casts = [node for node in made.graph.node if node.op_type == "Cast"]
    source = {name: node for node in made.graph.node for name in node.output}
    assert not any(source[node.input[0]].op_type == "Cast" for node in casts if node.input[0] in source)
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)  # none twice
    if backbone == "test_efficientnet":  # pixels to fp32, in to fp16, out to fp32
        assert len(casts) == 3


def overflowing_graph() -> onnx.ModelProto:
    """A ReLU net, its first layer scaled up by 2^20 and its second down: same answers, large values."""
    student = random_student("test_resnet")
    first, second = student.backbone.layer1[0].conv1, student.backbone.layer1[0].conv2
    norm = student.backbone.layer1[0].bn1
    with torch.no_grad():
        norm.weight *= 2.0**20
        norm.bias *= 2.0**20
        second.weight /= 2.0**20
    assert first.weight.abs().max() < 10
    return graph_of(student)[1]


def test_values_beyond_fp16_stay_in_fp32() -> None:
    model, images = overflowing_graph(), pictures(16)
    made = to_fp16(model, images)
    reasons = {reason: [n for n, r in made.kept.items() if r == reason] for reason in made.kept.values()}
    assert len(reasons["range"]) == 3  # the layer that makes them, its ReLU, the layer that takes them
    _, exact = answers(model, images)
    for graph in (made.model, made.emulated):
        assert np.abs(answers(graph, images)[1] - exact).max() < 1e-2
    assert count_macs(made.model).share("fp16") > 0.5


def test_without_the_range_rule_the_emulation_shows_what_a_gpu_would_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fp16_module, "_out_of_range", lambda model, images: {})
    with pytest.raises(PrecisionError, match=r"off by inf .* cannot run in fp16"):
        to_fp16(overflowing_graph(), pictures(8))


def test_an_operation_that_costs_too_much_goes_back_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = student_graph("test_vit")
    images = pictures(16)
    before = to_fp16(model, images)
    assert "error" not in before.kept.values()
    tolerances = dict(fp16_module.TOLERANCES)
    strict = tolerances["onnxruntime", "fp16"]
    limit = 1.8 * before.embedding_error  # half of it is allowed
    tolerances["onnxruntime", "fp16"] = type(strict)(**(vars(strict) | {"embedding": limit}))
    monkeypatch.setattr(fp16_module, "TOLERANCES", tolerances)
    after = to_fp16(model, images)
    assert after.embedding_error <= limit / 2 < before.embedding_error
    moved = {name for name, reason in after.kept.items() if reason == "error"}
    assert moved and not moved & before.kept.keys()
