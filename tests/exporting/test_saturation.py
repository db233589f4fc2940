"""int8 answers the same with and without VNNI: the bound on the weights, an emulation, real kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.helpers.onnx_students import pictures, student_graph
from tests.helpers.openvino_without_vnni import openvino_without_vnni
from tests.helpers.vpmaddubsw import exact_product, products, saturating_product
from vl2v_deploy.client.student import open_session
from vl2v_deploy.exporting.precision import saturation
from vl2v_deploy.exporting.precision.bias_correction import correct_bias, input_means
from vl2v_deploy.exporting.precision.calibration import tensor_ranges
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.precision.saturation import (
    WEIGHT_RULES,
    WeightRule,
    int8_weights,
    largest_pairs,
    layers_that_may_saturate,
    weight_scales,
)
from vl2v_deploy.exporting.precision.sessions import answers

BACKBONES = ("test_efficientnet", "test_vit")


def made(backbone: str, weights: WeightRule, *, symmetric: bool = False) -> onnx.ModelProto:
    _, model = student_graph(backbone)
    images = pictures(16)
    return quantized(
        model,
        tensor_ranges(model, images, "minmax"),
        symmetric=symmetric,
        weights=weights,
        means=input_means(model, images),
    )


@pytest.fixture
def eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as before there was a rule: any two may be together as large as they can."""
    monkeypatch.setattr(saturation, "LARGEST_PAIR", 2 * saturation.LARGEST_WEIGHT)


def conv(weight: np.ndarray, groups: int = 1) -> NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=groups, kernel_shape=weight.shape[2:])


@pytest.mark.parametrize(
    ("weight", "groups", "expected"),
    [
        ([[1, 2, -3, -4, 5]], 1, 7),  # 1 + 2, -3 - 4, 5 alone
        ([[1, -2, 3, -4]], 1, 4),  # of two signs: their products cannot both be large
        ([[1, 2], [30, 40]], 1, 70),
    ],
)
def test_neighbours_of_a_pointwise_convolution(weight: list[list[int]], groups: int, expected: int) -> None:
    values = np.array(weight)[:, :, None, None]
    assert largest_pairs(conv(values, groups), values).max() == expected


def test_neighbours_of_taps_and_channels() -> None:
    """Three channels, two taps: onnxruntime pairs the last channel of a tap with the first of the next."""
    weight = np.array([1, 20, 300, 4000, 50000, 600000]).reshape(1, 2, 3).transpose(0, 2, 1)[..., None]
    flat, by_tap = saturation.neighbours(conv(weight), weight)
    assert flat.tolist() == [[[1, 20], [300, 4000], [50000, 600000]]]
    assert by_tap.tolist() == [[[1, 20], [300, 0], [4000, 50000], [600000, 0]]]
    matrix = np.arange(8).reshape(4, 2)  # of a MatMul: K by N
    [pairs] = saturation.neighbours(helper.make_node("MatMul", ["x", "w"], ["y"]), matrix)
    assert pairs.tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    depthwise = np.ones((4, 1, 3, 3))
    assert list(saturation.neighbours(conv(depthwise, 4), depthwise)) == []
    assert len(list(saturation.neighbours(conv(np.ones((8, 1, 3, 3)), 4), np.ones((8, 1, 3, 3))))) == 2


@pytest.mark.parametrize("rule", WEIGHT_RULES)
def test_a_weight_just_at_the_bound_is_not_rounded_over_it(rule: WeightRule) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 6):
        # halves, where rounding decides, times anything, so that scales are no round numbers
        weight = (rng.integers(-255, 256, (2000, size)) / 2 * rng.uniform(0.1, 9, (2000, 1))).astype(
            np.float32
        )
        node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
        scales = weight_scales(node, weight, rule)
        rounded = np.round(weight / scales[:, None])
        assert np.abs(rounded).max() <= (127 if rule == "pairwise" else 64)
        assert largest_pairs(node, rounded).max() <= 128
    assert (weight_scales(node, np.zeros((3, 4), np.float32), rule) > 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rule", WEIGHT_RULES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_graph_by_the_rule_is_proven(backbone: str, rule: WeightRule, symmetric: bool) -> None:
    model = made(backbone, rule, symmetric=symmetric)
    assert layers_that_may_saturate(model) == []
    weights = {node.name: weight for node, weight in int8_weights(model)}
    assert len(weights) > 15
    largest = max(np.abs(weight.astype(int)).max() for weight in weights.values())
    assert largest == (64 if rule == "seven-bit" else 127)


@pytest.mark.usefixtures("eight_bits")
def test_what_is_not_proven_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("test_efficientnet", "pairwise")
    monkeypatch.undo()
    found = layers_that_may_saturate(model)
    depthwise = {node.name for node, weight in int8_weights(model) if weight.shape[1] == 1}
    assert len(found) > 10 and depthwise and not depthwise.intersection(found)


@pytest.mark.parametrize("rule", WEIGHT_RULES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_emulated_saturation_changes_nothing(backbone: str, rule: WeightRule) -> None:
    """On the values that flow through the graph, and on the worst that could."""
    seen = set()
    for name, left, right in products(made(backbone, rule), pictures(2, seed=3)):
        seen.add(name)
        assert (saturating_product(left, right) == exact_product(left, right)).all(), name
        for worst in (right > 0, right < 0):  # all that one output adds up with one sign, at its largest
            activations = np.uint8(255) * worst.T.astype(np.uint8)  # (N, K)
            assert (saturating_product(activations, right) == exact_product(activations, right)).all(), name
    assert len(seen) > 15


@pytest.mark.usefixtures("eight_bits")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_emulated_saturation_is_seen_where_it_is(backbone: str) -> None:
    wrong = {
        name
        for name, left, right in products(made(backbone, "pairwise"), pictures(2, seed=3))
        if (saturating_product(left, right) != exact_product(left, right)).any()
    }
    assert len(wrong) > 3


def test_openvino_saturates_what_the_emulation_says(tmp_path: Path) -> None:
    """Two weights of 127 under two inputs of 255: neighbours saturate, others do not."""
    weight = np.zeros((4, 3), np.int8)
    weight[[0, 1], 0] = weight[[1, 2], 1] = weight[[2, 3], 2] = 127
    names = {"x_s": np.float32(1), "x_z": np.uint8(0), "w": weight, "w_s": np.ones(3, np.float32)}
    names["w_z"] = np.zeros(3, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_s", "x_z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["v"], axis=1),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in names.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    [got] = openvino_without_vnni(model, np.full((2, 4), 255, np.float32), tmp_path)
    assert got.tolist() == saturating_product(np.full((2, 4), 255, np.uint8), weight).tolist()
    assert got[0].tolist() == [32767, 64770, 32767]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_openvino_answers_the_same_without_vnni(backbone: str, symmetric: bool, tmp_path: Path) -> None:
    images = pictures(32, seed=4)
    _, embedding = answers(student_graph(backbone)[1], images)
    _, found = openvino_without_vnni(made(backbone, "pairwise", symmetric=symmetric), images, tmp_path)
    # measured 0.95 to 0.998; with eight bits 0.58 and 0.93 on average
    assert (found * embedding).sum(1).mean() > 0.985
    assert (found * embedding).sum(1).min() > 0.94


def graph_of_layer(op_type: str, weight: np.ndarray, bias: bool, **attributes: int) -> onnx.ModelProto:
    shape = ["batch", weight.shape[1] * attributes.get("group", 1), 6, 6]
    inputs, constants = ["flat", "w"], {"w": weight}
    nodes = [helper.make_node("Flatten", ["images"], ["flat"], axis=1)]
    if op_type == "Conv":
        inputs[0] = "images"
    else:
        shape[1] = 1
    if bias:
        constants["b"] = np.linspace(-1, 1, weight.shape[0] if op_type != "MatMul" else weight.shape[1])
        inputs += ["b"] * (op_type != "MatMul")
    last = "product" if bias and op_type == "MatMul" else "y"
    nodes.append(helper.make_node(op_type, inputs, [last], "layer", **attributes))
    nodes += [helper.make_node("Add", ["product", "b"], ["y"], "add")] * (last != "y")
    graph = helper.make_graph(
        nodes[op_type == "Conv" :],
        "layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("op_type", "shape", "attributes"),
    [
        ("Conv", (8, 3, 1, 1), {}),
        ("Conv", (8, 2, 1, 1), {"group": 4}),
        ("Conv", (4, 1, 1, 1), {"group": 4}),
        ("Gemm", (5, 36), {"transB": 1}),
        ("MatMul", (36, 5), {}),
    ],
)
def test_a_corrected_bias_keeps_the_mean(
    op_type: str, shape: tuple[int, ...], attributes: dict[str, int], bias: bool
) -> None:
    """Whatever is taken from the weights, each output channel's mean on these images is what it was."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape).astype(np.float32)
    model = graph_of_layer(op_type, weight, bias, **attributes)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    images = rng.uniform(0, 2, (40, channels, 6, 6)).astype(np.float32)
    means = input_means(model, images)  # type: ignore[arg-type]
    error = rng.normal(size=shape).astype(np.float32)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    [layer] = [node for node in changed.graph.node if node.name == "layer"]
    correct_bias(changed.graph, layer, error, means["layer"])
    for tensor in changed.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(weight - error, "w"))
    axes = (0, 2, 3) if op_type == "Conv" else (0,)
    before, after = (run(graph, images).mean(axes) for graph in (model, changed))
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert np.abs(run(changed, images) - run(model, images)).max() > 0.1  # and the weights did change


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model.SerializeToString()).run(["y"], {"images": images})[0])
