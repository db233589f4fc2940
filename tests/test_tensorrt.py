"""The TensorRT path through the real TensorRT-RTX parser and builder, which need no GPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from vl2v_deploy.errors import ExportError
from vl2v_deploy.export.tensorrt import (
    EngineRequest,
    Profile,
    build_engine,
    engine_name,
    engine_requests,
    profile_from_text,
    require_buildable,
)

pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")


def write_graph(path: Path, operator: str = "ReduceMean") -> Path:
    """images: uint8 (batch, 8, 8, 3) -> one float per image; cast before the transpose."""
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(operator, ["nchw", "axes"], ["logits"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        [axes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_builds_an_engine_with_its_passport(tmp_path: Path) -> None:
    source = write_graph(tmp_path / "student.onnx")
    request = EngineRequest("tensorrt_rtx", Profile(1, 2, 4), ("8.6", "12.0"))
    plan = tmp_path / engine_name(request, "fp32")
    assert plan.name == "student.fp32.rtx-sm86-sm120.plan"
    passport = build_engine(require_buildable(request), request, source, plan)
    assert plan.stat().st_size > 1000
    assert json.loads(plan.with_name(f"{plan.name}.json").read_text()) == passport
    assert passport["plan_sha256"] == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert passport["onnx_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert passport["profile"] == {"min": 1, "opt": 2, "max": 4}
    assert passport["compute_capabilities"] == ["8.6", "12.0"]
    assert passport["parity"] is None and "not run" in passport["parity_note"]


def test_a_graph_that_cannot_be_parsed_says_why(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not onnx")
    request = EngineRequest("tensorrt_rtx", Profile(1, 1, 1), ("8.6",))
    with pytest.raises(ExportError, match=r"bad\.onnx: tensorrt_rtx cannot parse it: \S+"):
        build_engine(require_buildable(request), request, bad, tmp_path / "bad.plan")
    assert not (tmp_path / "bad.plan").exists()


def test_unknown_compute_capability_and_bad_profiles() -> None:
    with pytest.raises(ExportError, match=r"5\.2: TensorRT-RTX .* builds for 7\.5, 8\.0, 8\.6"):
        engine_requests(trt=False, rtx=True, profile="1:8:64", compute_capability="5.2")
    for text in ("8", "0:1:2", "4:2:8", "a:b:c", "1:8:4"):
        with pytest.raises(ExportError, match="--profile"):
            profile_from_text(text)


def test_rtx_without_a_gpu_asks_for_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ExportError, match="name the target's --compute-capability"):
        engine_requests(trt=False, rtx=True, profile="1:8:64", compute_capability="")


def test_trt_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ExportError, match=r"on the GPU that will run it.*--rtx"):
        engine_requests(trt=True, rtx=False, profile="1:8:64", compute_capability="")
