"""int8 graphs: the form each runtime needs, calibration, and the budget that sends layers back to fp32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tests.helpers.onnx_students import graph_of, pictures, random_student, student_graph
from vl2v_deploy.errors import PrecisionError
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.graph.student_graph import CLASSIFIER
from vl2v_deploy.exporting.precision.bias_correction import input_means
from vl2v_deploy.exporting.precision.calibration import CALIBRATIONS, largest_magnitudes, tensor_ranges
from vl2v_deploy.exporting.precision.int8 import Validation, layer_sensitivity, to_int8
from vl2v_deploy.exporting.precision.qdq import calibrated_ranges, quantized
from vl2v_deploy.exporting.precision.saturation import WEIGHT_RULES
from vl2v_deploy.exporting.precision.sessions import answers


def validation_of(model: onnx.ModelProto, count: int = 48) -> Validation:
    """Pictures whose labels are what the fp32 graph says: every label that moves is a loss."""
    images = pictures(count, seed=2)
    logits, embedding = answers(model, images)
    weights = np.full(len(images), 1 / len(images))
    return Validation(images, logits.argmax(1), weights, logits, embedding)


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_the_form_that_runtimes_need(backbone: str, symmetric: bool) -> None:
    _, model = student_graph(backbone)
    made = quantized(
        model, tensor_ranges(model, pictures(16), "minmax"), symmetric=symmetric, weights="pairwise"
    )
    onnx.checker.check_model(made, full_check=True)
    values = initializers(made)
    pairs = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert (scale > 0).all()
        assert zero.dtype in (np.int8, np.uint8)  # never int32: TensorRT refuses it
        if symmetric or zero.dtype == np.int8:
            assert zero.dtype == np.int8 and not zero.any()
    weights = [node for node in pairs if node.input[0] in values]
    assert weights and all(values[node.input[0]].dtype == np.int8 for node in weights)
    assert any(values[node.input[1]].size > 1 for node in weights)  # a scale each output channel
    assert values[CLASSIFIER].dtype == np.float32
    left = [name for name, (kind, _) in count_macs(made).by_node.items() if kind == "fp32"]
    assert len(left) == 1 and count_macs(made).share("int8") > 0.9


@pytest.mark.parametrize("symmetric", [False, True])
def test_int8_stays_near_and_has_its_method_from_source_validation(symmetric: bool) -> None:
    _, model = student_graph("test_efficientnet")
    validation = validation_of(model)
    ranges, means = calibrated_ranges(model, pictures(32)), input_means(model, pictures(32))
    made = to_int8(model, ranges, means, validation, symmetric=symmetric, max_drop=100.0, max_fp32_share=0.2)
    assert made.calibrations.keys() == set(CALIBRATIONS)
    best = made.calibrations[made.chosen]
    assert made.weight_rules.keys() == set(WEIGHT_RULES)
    assert made.weight_rules["pairwise"] == best
    assert made.weight_rules[made.weights] == made.final
    most = max(trial.accuracy for trial in made.calibrations.values())
    equals = [t for t in made.calibrations.values() if t.accuracy >= most - (most * (1 - most) / 48) ** 0.5]
    assert best.cosine == max(trial.cosine for trial in equals) and best in equals
    assert made.fp32_layers == () and made.sensitivity == {}
    assert made.drop == pytest.approx(100 * (1 - made.final.accuracy))
    assert 0.9 < best.cosine < 1.0  # near, and not the fp32 graph itself


def test_calibration_sees_what_numpy_sees() -> None:
    """The stem's input is (x - mean) / std of the pixels: its range is known without a calibrator."""
    student, model = student_graph("test_efficientnet")
    images = pictures(40)  # more than one batch, the last one smaller
    normalized = (images.astype(np.float64) - student.student.mean.numpy()) / student.student.std.numpy()
    [stem] = [node for node in model.graph.node if node.op_type == "Conv"][:1]
    for method in CALIBRATIONS:
        low, high = (
            np.asarray(bound).item()
            for bound in tensor_ranges(model, images, method)[stem.input[0]].range_value
        )
        assert normalized.min() - 1e-5 <= low < 0 < high <= normalized.max() + 1e-5
    exact = tensor_ranges(model, images, "minmax")[stem.input[0]].range_value
    assert [np.asarray(bound).item() for bound in exact] == pytest.approx(
        [normalized.min(), normalized.max()], rel=1e-5
    )
    largest = largest_magnitudes(model, images)[stem.input[0]]
    assert largest == pytest.approx(np.abs(normalized).max(), rel=1e-5)


def test_the_methods_do_not_disturb_each_other_and_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _, model = student_graph("test_efficientnet")
    images = pictures(12)
    together = calibrated_ranges(model, images)
    assert list(together) == list(CALIBRATIONS) and capsys.readouterr().out == ""
    for method in CALIBRATIONS:
        alone = tensor_ranges(model, images, method, ("Conv", "Gemm", "MatMul"))
        assert set(alone.keys()) <= set(together[method].keys())
        for name, data in alone.items():
            for expected, found in zip(data.range_value, together[method][name].range_value, strict=True):
                assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
                assert np.array_equal(expected, found)


def test_the_same_images_give_the_same_bytes() -> None:
    _, model = student_graph("test_efficientnet")
    first, second = (
        quantized(
            model, tensor_ranges(model, pictures(16), "entropy"), symmetric=False, weights="pairwise"
        ).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def spoilt_graph() -> tuple[onnx.ModelProto, set[str]]:
    """A net with values that int8 cannot hold: one channel is 2^12 larger than the others of its tensor.

    The layer after it weighs that channel down again, so that in fp32 nothing is lost. Returns the names of
    the two layers: the one that makes the tensor and the one that takes it.
    """
    student = random_student("test_resnet")
    block = student.backbone.layer1[0]
    with torch.no_grad():
        block.bn1.weight[0] *= 2.0**12
        block.bn1.bias[0] *= 2.0**12
        block.conv2.weight[:, 0] /= 2.0**12
    model = graph_of(student)[1]
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    magnitudes = largest_magnitudes(model, pictures(8))
    maker = max(layers, key=lambda node: magnitudes[node.output[0]])
    taker = max(layers, key=lambda node: magnitudes[node.input[0]])
    return model, {maker.name, taker.name}


def test_the_layer_that_costs_accuracy_is_found_and_goes_back_to_fp32() -> None:
    model, guilty = spoilt_graph()
    validation, images = validation_of(model), pictures(32)
    ranges, means = calibrated_ranges(model, images), input_means(model, images)

    def quantize(**given: object) -> onnx.ModelProto:
        return quantized(model, ranges["minmax"], symmetric=True, weights="pairwise", **given)  # type: ignore[arg-type]

    costs = layer_sensitivity(model, quantize, validation)
    assert next(iter(costs)) in guilty
    made = to_int8(model, ranges, means, validation, symmetric=True, max_drop=10.0, max_fp32_share=0.6)
    assert next(iter(costs)) in made.fp32_layers
    assert made.drop <= 10.0 < 100 * (1 - max(trial.accuracy for trial in made.calibrations.values()))
    assert len(made.fp32_layers) < len(costs) / 2
    kinds = count_macs(made.model).by_node
    assert {name for name, (kind, _) in kinds.items() if kind == "fp32"} >= set(made.fp32_layers)


def test_a_budget_that_cannot_be_kept_is_refused() -> None:
    model, _ = spoilt_graph()
    ranges, means = calibrated_ranges(model, pictures(16)), input_means(model, pictures(16))
    with pytest.raises(PrecisionError, match=r"int8: with 0 layers back in fp32, .*--max-accuracy-drop"):
        to_int8(model, ranges, means, validation_of(model), symmetric=True, max_drop=0.0, max_fp32_share=0.0)


def test_a_dead_channel_has_a_scale_that_tensorrt_takes() -> None:
    student = random_student("test_efficientnet")
    with torch.no_grad():
        student.backbone.conv_stem.weight[0] = 0
        student.backbone.bn1.weight[1] = 0
    model = graph_of(student)[1]
    made = quantized(model, tensor_ranges(model, pictures(8), "minmax"), symmetric=True, weights="pairwise")
    scales = {node.input[1] for node in made.graph.node if node.op_type.endswith("quantizeLinear")}
    assert all(
        (numpy_helper.to_array(tensor) > 0).all()
        for tensor in made.graph.initializer
        if tensor.name in scales and tensor.data_type == TensorProto.FLOAT
    )
