"""Exported students of each kind of network, in each precision, through the real TensorRT-RTX builder."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.helpers.onnx_students import pictures, student_graph
from vl2v_deploy.client.passport import Profile
from vl2v_deploy.exporting.options import EngineRequest
from vl2v_deploy.exporting.precision.calibration import tensor_ranges
from vl2v_deploy.exporting.precision.fp16 import to_fp16
from vl2v_deploy.exporting.precision.qdq import quantized
from vl2v_deploy.exporting.tensorrt.build import build_engine, require_buildable

pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")

REQUEST = EngineRequest("tensorrt_rtx", Profile(1, 8, 64), ("8.6", "8.9", "12.0"))


def in_precision(backbone: str, precision: str) -> onnx.ModelProto:
    _, model = student_graph(backbone)
    images = pictures(8)
    if precision == "fp16":
        return to_fp16(model, images).model
    if precision == "int8":
        return quantized(model, tensor_ranges(model, images, "minmax"), symmetric=True, weights="pairwise")
    return model


BACKBONES = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "convnext_atto")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "precision"),
    [(backbone, precision) for backbone in BACKBONES for precision in ("fp32", "fp16", "int8")],
)
def test_every_student_builds_in_every_precision(tmp_path: Path, backbone: str, precision: str) -> None:
    source = tmp_path / "student.onnx"
    onnx.save(in_precision(backbone, precision), source)
    passport = build_engine(
        require_buildable(REQUEST), REQUEST, source, tmp_path / "student.plan", precision=precision
    )
    assert (passport.plan_bytes or 0) > 1e6
