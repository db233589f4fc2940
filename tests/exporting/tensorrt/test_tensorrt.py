"""The TensorRT path through the real TensorRT-RTX parser and builder, which need no GPU."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console
from rich.progress import Progress

from tests.helpers.engine_graphs import INT8, Form, write_graph
from vl2v_deploy.client.passport import Passport, Profile, TimingCache
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import ExportError, MissingExtra, ProviderError
from vl2v_deploy.exporting.options import EngineRequest
from vl2v_deploy.exporting.tensorrt import build as tensorrt
from vl2v_deploy.exporting.tensorrt import library as engine_library
from vl2v_deploy.exporting.tensorrt.build import (
    build_engine,
    engine_name,
    require_buildable,
)
from vl2v_deploy.exporting.tensorrt.passport import read_passport

trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")

PROFILE = Profile(1, 2, 4)
SM86 = EngineRequest("tensorrt_rtx", PROFILE, ("8.6",))


def build(tmp_path: Path, form: Form | None = None, request: EngineRequest = SM86, **named: Any) -> Passport:
    source = write_graph(tmp_path / "student.onnx", form)
    return build_engine(require_buildable(request), request, source, tmp_path / "student.plan", **named)


def test_builds_an_engine_with_its_passport(tmp_path: Path) -> None:
    source = write_graph(tmp_path / "student.onnx")
    request = EngineRequest("tensorrt_rtx", PROFILE, ("8.6", "12.0"))
    plan = tmp_path / engine_name(request, "fp32")
    assert plan.name == "student.fp32.rtx-sm86-sm120.plan"
    shares = {"fp32": 1.0, "fp16": 0.0}
    passport = build_engine(require_buildable(request), request, source, plan, mac_shares=shares)
    assert plan.stat().st_size == passport.plan_bytes > 1000
    assert json.loads(plan.with_name(f"{plan.name}.json").read_text()) == to_json(passport)
    assert read_passport(plan) == passport
    assert passport.plan_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert passport.onnx_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert passport.profile == PROFILE
    assert passport.compute_capabilities == ("8.6", "12.0")
    assert passport.version == trt.__version__
    assert passport.parity is None and passport.usable is None and "not run" in passport.parity_note
    assert (passport.tf32, passport.strongly_typed) == (False, True)
    assert passport.precision_proof.onnx_mac_shares == shares
    assert passport.timing_cache.file is None and "has none" in passport.timing_cache.note
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "capabilities", [("8.0",), ("8.6",), ("8.9",), ("12.0",), ("8.6", "8.9", "12.0", "12.1")]
)
def test_builds_for_each_compute_capability(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    passport = build(tmp_path, request=EngineRequest("tensorrt_rtx", PROFILE, capabilities))
    assert passport.compute_capabilities == capabilities


def test_turing_takes_fp16_and_says_so_of_fp32(tmp_path: Path) -> None:
    turing = EngineRequest("tensorrt_rtx", PROFILE, ("7.5",))
    with pytest.raises(ExportError, match="FP32 GEMM is not supported"):
        build(tmp_path, request=turing)
    assert not (tmp_path / "student.plan").exists()
    build(tmp_path, Form(precision="fp16"), turing, precision="fp16")
    assert read_passport(tmp_path / "student.plan").precision == "fp16"


@pytest.mark.parametrize(
    "form",
    [
        {"precision": "fp16"},
        INT8,
        INT8 | {"bias": "none"},
        INT8 | {"weights": "qdq"},
        INT8 | {"shared": False},
        INT8 | {"opset": 21},
        INT8 | {"constant": (1,)},
        {"weights": "int8"},
    ],
    ids=lambda form: " ".join(f"{key}={value}" for key, value in form.items()),
)
def test_forms_that_the_parser_and_builder_take(tmp_path: Path, form: dict[str, Any]) -> None:
    both = EngineRequest("tensorrt_rtx", PROFILE, ("8.6", "12.0"))
    assert build(tmp_path, Form(**form), both).plan_bytes


def test_a_quantized_constant_of_rank_0_is_refused_when_built(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot build it: .*Quantized constant \(one_q\) is only allowed"):
        build(tmp_path, Form(**INT8, constant=()))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"early": True}, "UInt8"),
        (INT8 | {"bias": "int32"}, "Int32"),
        (INT8 | {"activations": "uint8", "zero_point": 128}, "Non-zero zero point"),
        (INT8 | {"zero_point": 3}, "Non-zero zero point"),
        (INT8 | {"dead": True}, "must all be positive"),
    ],
    ids=["uint8 transposed", "int32 bias", "uint8 activations", "zero point", "dead channel"],
)
def test_forms_that_the_parser_refuses(tmp_path: Path, form: dict[str, Any], said: str) -> None:
    """What the graph writers must never write; the day one of these passes, they may."""
    with pytest.raises(
        ExportError, match=rf"student\.onnx: TensorRT-RTX cannot parse it: .*{said}"
    ) as raised:
        build(tmp_path, Form(**form))
    assert "\n" not in str(raised.value) and "cudaError" not in str(raised.value)
    assert not (tmp_path / "student.plan").exists()


def test_a_damaged_graph_says_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    for damage in (b"not onnx", write_graph(tmp_path / "good.onnx").read_bytes()[:2000]):
        bad.write_bytes(damage)
        with pytest.raises(ExportError, match=r"bad\.onnx: TensorRT-RTX cannot parse it: \S+"):
            build_engine(trt, SM86, bad, tmp_path / "bad.plan")
    bad.write_bytes(b"")  # an empty file is a valid graph without anything in it
    with pytest.raises(ExportError, match=r"bad\.onnx: expected one input, images: uint8 .* got none"):
        build_engine(trt, SM86, bad, tmp_path / "bad.plan")
    assert not (tmp_path / "bad.plan").exists()


@pytest.mark.parametrize(
    ("name", "kind", "batch", "got"),
    [
        ("pixels", TensorProto.UINT8, "batch", r"pixels: uint8 \(-1, 8, 8, 3\)"),
        ("images", TensorProto.FLOAT, "batch", r"images: float \(-1, 8, 8, 3\)"),
        ("images", TensorProto.UINT8, 4, r"images: uint8 \(4, 8, 8, 3\)"),
    ],
)
def test_a_graph_of_another_input_is_refused(
    tmp_path: Path, name: str, kind: int, batch: str | int, got: str
) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Cast", [name], ["logits"], to=TensorProto.FLOAT)],
        "g",
        [value(name, kind, [batch, 8, 8, 3])],
        [value("logits", TensorProto.FLOAT, [batch, 8, 8, 3])],
    )
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(ExportError, match=f"got {got}"):
        build_engine(trt, SM86, path, tmp_path / "other.plan")


def test_options_reach_the_builder_and_the_passport(tmp_path: Path) -> None:
    plain = build(tmp_path)
    assert (plain.builder_level, plain.tf32) == (3, False)
    assert "TF32" not in plain.flags
    request = replace(SM86, builder_level=1, workspace_bytes=1 << 26, tf32=True, timing_cache=False)
    passport = build(tmp_path, request=request)
    assert (passport.builder_level, passport.workspace_bytes) == (1, 1 << 26)
    assert passport.tf32 is True and "TF32" in passport.flags


def test_a_workspace_that_the_library_does_not_take_is_an_error() -> None:
    config = MagicMock()
    config.get_memory_pool_limit.return_value = 7
    request = replace(SM86, workspace_bytes=8)
    with pytest.raises(ExportError, match="--workspace-mib: TensorRT-RTX refuses 8 bytes, and keeps to 7"):
        tensorrt._configure(trt, config, request)


def test_unknown_compute_capability() -> None:
    with pytest.raises(ExportError, match=r"5\.2: TensorRT-RTX .* builds for 7\.5, 8\.0, 8\.6"):
        require_buildable(EngineRequest("tensorrt_rtx", compute_capabilities=("5.2",)))


def test_rtx_without_a_gpu_asks_for_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ExportError, match="name the target's --compute-capability"):
        require_buildable(EngineRequest("tensorrt_rtx"))


def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA Thing 9")


def test_rtx_with_a_gpu_builds_for_it_or_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, (8, 9))
    request = EngineRequest("tensorrt_rtx")
    assert require_buildable(request) is trt
    assert tensorrt.targets_of(request) == ("8.9",)
    assert engine_name(request, "fp16") == "student.fp16.rtx-sm89.plan"
    fake_gpu(monkeypatch, (9, 0))
    with pytest.raises(ExportError, match=r"9\.0: TensorRT-RTX .* builds for"):
        require_buildable(EngineRequest("tensorrt_rtx"))


def test_trt_without_a_gpu_or_without_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vl2v-deploy\[trt\]'.*--rtx"):
        require_buildable(EngineRequest("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ExportError, match=r"on the GPU that will run it.*--rtx"):
        require_buildable(EngineRequest("tensorrt"))


def test_hardware_compatibility_needs_a_gpu_that_can_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    fake_gpu(monkeypatch, (7, 5))
    for level, fine in (("same-capability", True), ("ampere-plus", False)):
        request = EngineRequest("tensorrt", PROFILE, hardware_compatible=level)
        if fine:
            assert require_buildable(request)
            continue
        with pytest.raises(ExportError, match=r"8\.0 or later; the one here has 7\.5"):
            require_buildable(request)


def test_progress_is_shown_in_the_display_of_the_caller(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Progress(console=Console(file=screen, force_terminal=True, width=100)) as progress:
        build(tmp_path, progress=progress)
        assert progress.tasks == []
    assert "Building engine" in screen.getvalue()


class Interrupting:
    """A progress display in which Ctrl-C arrives at the first of the given events; counts what follows."""

    def __init__(self, event: str) -> None:
        self.event, self.interrupted, self.later = event, False, 0

    def _at(self, event: str) -> int:
        self.later += self.interrupted
        if event == self.event and not self.interrupted:
            self.interrupted = True
            signal.raise_signal(signal.SIGINT)
        return 0

    def add_task(self, *_: object, **__: object) -> int:
        return self._at("start")

    def update(self, *_: object, **__: object) -> None:
        self._at("step")

    def remove_task(self, *_: object) -> None:
        self._at("finish")


@pytest.mark.parametrize("event", ["start", "step", "finish"])
def test_ctrl_c_cancels_the_build(tmp_path: Path, event: str) -> None:
    display = Interrupting(event)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, progress=display)
    assert not (tmp_path / "student.plan").exists()
    assert display.interrupted
    assert display.later < 20  # a whole build reports some 150 events


def test_errors_of_one_build_do_not_stand_in_the_next(tmp_path: Path) -> None:
    """The library keeps to the first logger of the process: ours is one, emptied before each build."""
    assert engine_library.logger_of(trt) is engine_library.logger_of(trt)
    turing = EngineRequest("tensorrt_rtx", PROFILE, ("7.5",))
    for _ in range(2):
        with pytest.raises(ExportError, match=r"cannot build it: .*FP32 GEMM") as raised:
            build(tmp_path, request=turing)
        assert str(raised.value).count("FP32 GEMM") == 1
    build(tmp_path)
    assert not [line for line in engine_library.logger_of(trt).errors if "GEMM" in line]


@pytest.mark.skipif(engine_library.torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_engine_built_without_a_gpu_says_why_it_has_no_proof_and_is_not_run(tmp_path: Path) -> None:
    from vl2v_deploy.exporting.tensorrt.runner import open_engine

    proof = build(tmp_path).precision_proof
    assert proof.engine_layers is None and proof.engine_layers_note.startswith("no GPU here")
    with pytest.raises(ProviderError, match=r"student\.plan: a TensorRT-RTX engine needs an NVIDIA GPU"):
        open_engine(tmp_path / "student.plan")


@pytest.mark.skipif(engine_library.torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_plan_that_the_library_refuses_is_an_error_with_its_words(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(ProviderError, match=r"student\.plan: cannot be loaded here: .*CUDA") as raised:
        engine_library.load_engine(trt, tmp_path / "student.plan", trusted=False)
    assert "\n" not in str(raised.value)
    (tmp_path / "student.plan").write_bytes(b"no plan")
    with pytest.raises(ProviderError, match=r"student\.plan: cannot be loaded here: \S+"):
        engine_library.load_engine(trt, tmp_path / "student.plan", trusted=False)


def test_a_library_that_cannot_start_is_an_error() -> None:
    library = ModuleType("tensorrt")
    library.ILogger = trt.ILogger  # type: ignore[attr-defined]

    def null_pointer(logger: Any) -> None:
        logger.log(trt.ILogger.Severity.ERROR, "the driver is\ntoo old")
        raise TypeError("factory function returned nullptr")

    library.Builder = library.Runtime = null_pointer  # type: ignore[attr-defined]
    with pytest.raises(ExportError, match="TensorRT cannot start here: the driver is too old"):
        engine_library.start_builder(library, "tensorrt")
    with pytest.raises(ProviderError, match=r"x\.plan: cannot be loaded here: the driver is too old"):
        engine_library.load_engine(library, Path("x.plan"), trusted=False)


class FakeCache:
    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def serialize(self) -> bytes:
        return self.blob + b"+times"


class FakeTimedConfig:
    """A builder config that takes caches which begin with 'fits'; as TensorRT refuses those of other GPUs."""

    def __init__(self) -> None:
        self.cache: FakeCache | None = None

    def create_timing_cache(self, blob: bytes) -> FakeCache | None:
        return None if blob == b"damaged" else FakeCache(blob)

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.blob and not cache.blob.startswith(b"fits"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> FakeCache:
        assert self.cache is not None
        return self.cache


def test_timing_cache_is_kept_by_library_version_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vl2v_deploy.exporting.tensorrt.passport import Here
    from vl2v_deploy.exporting.tensorrt.timing_cache import (
        attach_timing_cache,
        save_timing_cache,
        timing_cache_path,
    )

    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path))
    machine = Here("tensorrt", "10.16.0.72", "8.6", "NVIDIA A10", "linux-x86_64")
    path = timing_cache_path(machine)
    assert path == tmp_path / "timing" / "tensorrt-10.16.0.72-sm8.6-nvidia-a10.cache"
    config = FakeTimedConfig()
    assert attach_timing_cache(config, path) == TimingCache(path.name, None, loaded_bytes=0)
    assert save_timing_cache(config, path) == len(b"+times")
    for held, loaded in ((b"fits", 4), (b"of another GPU", 0), (b"damaged", 0)):
        path.write_bytes(held)
        record = attach_timing_cache(config, path)
        assert record.loaded_bytes == loaded
        assert (record.note is None) == bool(loaded)
        assert config.get_timing_cache().blob == (held if loaded else b"")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_timing_cache_is_used_by_tensorrt_unless_declined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.1.0"))
    fake_gpu(monkeypatch, (9, 0))
    used, record = tensorrt._attach_timing_cache(FakeTimedConfig(), EngineRequest("tensorrt", PROFILE))
    assert used is not None and "11.1.0" in used.name and record.file == used.name
    declined = EngineRequest("tensorrt", PROFILE, timing_cache=False)
    assert tensorrt._attach_timing_cache(FakeTimedConfig(), declined)[0] is None
