"""Backbones with graphs that ONNX's shape inference does not follow: counted, in fp16, and tried ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.backbones import LIST, listed, read_results
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.onnx_students import pictures, student_graph
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.errors import ExportError, ModelError
from vl2v_deploy.exporting.graph.macs import count_macs, uncounted
from vl2v_deploy.exporting.precision.fp16 import convert_fp16, emulate_fp16
from vl2v_deploy.models.student import build_student
from vl2v_deploy.recipe import load_recipe

FLOAT = TensorProto.FLOAT


def window_graph(noted: str | None) -> onnx.ModelProto:
    """x (batch, 8, 4) as windows (4 batch, 2, 4), by a shape that inference cannot know, times w (4, 5).

    noted: the first dimension of the windows, as an exporter writes it; None = nothing is noted
    """
    nodes = [
        helper.make_node("Floor", ["float_shape"], ["floored"], name="floor"),
        helper.make_node("Cast", ["floored"], ["shape"], name="cast", to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "shape"], ["windows"], name="reshape"),
        helper.make_node("MatMul", ["windows", "w"], ["products"], name="layer"),
        helper.make_node("Cast", ["products"], ["truths"], name="truth", to=TensorProto.BOOL),
        helper.make_node("Not", ["truths"], ["lies"], name="not"),
        helper.make_node("Cast", ["lies"], ["y"], name="last", to=FLOAT),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 8, 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [
            numpy_helper.from_array(np.array([-1, 2, 4], np.float32), "float_shape"),
            numpy_helper.from_array(np.eye(4, 5, dtype=np.float32), "w"),
        ],
    )
    if noted:
        made.value_info.append(helper.make_tensor_value_info("windows", FLOAT, [noted, 2, 4]))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("noted", "windows"), [("4*batch", 4), ("batch", 1), ("batch*2", 2)])
def test_what_the_exporter_noted_is_counted(noted: str, windows: int) -> None:
    macs = count_macs(window_graph(noted))
    assert macs.by_node == {"layer": ("fp32", windows * 2 * 4 * 5)} and not macs.uncounted
    half = convert_fp16(window_graph(noted), ("floor", "cast", "last"))
    assert count_macs(half).by_node == {"layer": ("fp16", windows * 2 * 4 * 5)}


@pytest.mark.parametrize("noted", [None, "unknown", "batch + 1"])
def test_an_unknown_shape_is_said_and_refuses_nothing(noted: str | None) -> None:
    macs = count_macs(window_graph(noted))
    assert macs.total == 0 and macs.uncounted == {"a shape that cannot be inferred": ("layer",)}
    assert uncounted(macs.facts()) == ["1 operation(s) with a shape that cannot be inferred, first layer"]


def test_a_half_that_becomes_a_truth_is_one_in_the_emulation_too() -> None:
    """A Cast to bool is no Cast back to fp32."""
    import onnxruntime

    half = convert_fp16(window_graph("4*batch"), ("floor", "cast", "last"))
    x = np.zeros((1, 8, 4), np.float32)
    x[0, 0, 0] = 3.0
    for graph in (half, emulate_fp16(half)):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        [y] = session.run(["y"], {"x": x})
        assert y.shape == (4, 2, 5) and y[0, 0, 0] == 0.0 and y.sum() == y.size - 1


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("byhwc,hkc->byhwk", ((1, 2, 3, 4, 5), (3, 6, 5)), 2 * 3 * 4 * 5 * 6),
        ("bij,bjk->bik", ((1, 2, 3), (1, 3, 4)), 2 * 3 * 4),
        ("bij->bi", ((1, 2, 3),), 0),
        ("...ij,jk->...ik", ((1, 2, 3), (3, 4)), None),
    ],
)
def test_einsum_is_counted(equation: str, shapes: tuple[tuple[int, ...], ...], macs: int | None) -> None:
    names = [f"x{number}" for number in range(len(shapes))]
    node = helper.make_node("Einsum", names, ["y"], name="layer", equation=equation)
    inputs = [
        helper.make_tensor_value_info(name, FLOAT, ["batch", *shape[1:]] if name == "x0" else shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    made = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", FLOAT, None)])
    counted = count_macs(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]))
    if macs is None:
        assert counted.uncounted == {f"an Einsum of the form {equation}, which is not counted": ("layer",)}
    else:
        assert counted.by_node == {"layer": ("fp32", macs)}


def test_the_count_of_a_backbone_that_computes_shapes_is_torchs() -> None:
    """edgenext's position encoding is made of CumSum, Sin and Cos: nothing behind it could be inferred."""
    student, model = student_graph("edgenext_xx_small")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(torch.from_numpy(pictures(1)))
    macs = count_macs(model)
    assert not macs.uncounted and 2 * macs.total == counter.get_total_flops()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, make_domain_folder(tmp_path / "data"))


def test_a_dry_run_exports_the_untrained_student(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CliRunner().invoke(cli, ["distill", str(tiny), "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "Export of test_efficientnet at 32 px, untrained: fp32 ONNX of" in found.output
    assert "embeddings off torch's by at most" in found.output

    def fails(*_: object, **__: object) -> None:
        raise ExportError("test_efficientnet cannot be exported: made up")

    monkeypatch.setattr("vl2v_deploy.exporting.trial.write_student", fails)
    found = CliRunner().invoke(cli, ["distill", str(tiny), "--dry-run"])
    assert (found.exit_code, found.output.strip().splitlines()[-1]) == (
        1,
        "Error: test_efficientnet cannot be exported: made up",
    )


@pytest.mark.parametrize(
    ("backbone", "size_px", "expected"),
    [
        (
            "test_vit",
            40,
            r"image_size_px: test_vit cannot take 40, try 32 or 64 or 160 \(timm's own\)",
        ),
        ("gcvit_xxtiny", 200, r"image_size_px: gcvit_xxtiny cannot take 200, try 192 or 224 \(timm's own\)"),
    ],
)
def test_a_size_that_backbones_cannot_take_is_one_line(
    tiny: Path, backbone: str, size_px: int, expected: str
) -> None:
    recipe = load_recipe(tiny, [f"student.backbone={backbone}", f"student.image_size_px={size_px}"])
    with pytest.raises(ModelError, match=expected) as refused:
        build_student(recipe, 16, 2, weights=False)
    assert "\n" not in str(refused.value)


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "backbones.jsonl"
    assert read_results(file) == []
    file.write_text('{"backbone": "whole"}\n{"backbone": "ha')
    assert read_results(file) == [{"backbone": "whole"}]
    assert file.read_text() == '{"backbone": "whole"}\n'  # the next line is not appended to half a one


def test_the_listed_backbones_are_timms() -> None:
    names = listed()
    assert len(names) == len(set(names)) >= 100
    assert not [name for name in names if not timm.is_model(name)], LIST
