"""The exported files in OpenVINO, unchanged: same answers, any batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from tests.helpers.interop import CASES, Exported, Kind, check_runtime, exported, require_standard_operators
from tests.helpers.openvino_without_vnni import openvino_without_vnni
from vl2v_deploy.client.bundle import ONNX, Precision, file_of
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import ParityError
from vl2v_deploy.exporting.precision.parity import Floats, RunEngine, check_parity
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES

openvino = pytest.importorskip("openvino", reason="pip install openvino")

# OpenVINO computes an fp32 file in bfloat16 where the CPU can, unless it is told not to.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def runner(path: Path, config: dict[str, Any]) -> RunEngine:
    compiled = openvino.Core().compile_model(path, "CPU", config)

    def run(images: Pixels) -> tuple[Floats, Floats]:
        results = compiled(images)
        return results["logits"].copy(), results["embedding"].copy()

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_the_file_runs_unchanged(kind: Kind, precision: Precision, folder: Path) -> None:
    files = exported(kind, folder)
    path = files.folder / file_of(precision)
    require_standard_operators(path)
    check_runtime(files, precision, "openvino", runner(path, FLOAT32))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), [case for case in CASES if case[1].startswith("int8")])
def test_int8_answers_the_same_without_vnni(
    kind: Kind, precision: Precision, folder: Path, tmp_path: Path
) -> None:
    files = exported(kind, folder)
    reference = files.onnxruntime[precision]
    model = onnx.load(files.folder / file_of(precision))
    logits, embedding = openvino_without_vnni(model, reference.images, tmp_path)
    tolerance = TOLERANCES["openvino", "int8"]
    all_at_once = (len(reference.images),)
    check_parity(reference, lambda _: (logits, embedding), tolerance, f"{kind}, AVX2", all_at_once)


@pytest.mark.slow
def test_int8_is_computed_in_int8(folder: Path) -> None:
    """Q/DQ pairs that OpenVINO does not fuse would give the right answers too, slowly."""
    path = exported("cnn", folder).folder / file_of("int8")
    compiled = openvino.Core().compile_model(path, "CPU", FLOAT32)
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = [entry for entry in info if entry["layerType"] == "Convolution"]
    assert len(layers) == 49
    assert {entry["runtimePrecision"] for entry in layers} <= {"u8", "i8"}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["mean", "weight", "classifier"])
def test_a_file_with_one_wrong_number_is_caught(what: str, folder: Path, tmp_path: Path) -> None:
    files = exported("cnn", folder)
    graph = onnx.load(files.folder / ONNX).graph
    names = {
        "mean": next(node.input[1] for node in graph.node if node.op_type == "Sub"),
        "weight": "student.backbone.conv_head.weight",
        "classifier": "classifier",
    }

    def spoil(value: np.ndarray) -> None:
        value.flat[0] += 1.0

    path = changed(files, names[what], spoil, tmp_path)
    with pytest.raises(ParityError, match="disagrees"):
        check_parity(files.torch, runner(path, FLOAT32), TOLERANCES["openvino", "fp32"], path.name)


def changed(files: Exported, name: str, change: Callable[[np.ndarray], None], folder: Path) -> Path:
    """The fp32 file with one initializer changed."""
    model: ModelProto = onnx.load(files.folder / ONNX)
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
    value = numpy_helper.to_array(tensor).copy()
    change(value)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"
