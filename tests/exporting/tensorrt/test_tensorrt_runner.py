"""The engine runner: its checks and its bookkeeping with an engine of Python, and on a GPU the real thing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.engine_graphs import CLASSES, EMBEDDING, INT8, SIZE_PX, Form, write_graph
from tests.helpers.manifests import made_up_file
from tests.helpers.python_engine import (
    IO,
    PROFILE,
    FakeEngine,
    FakeGraph,
    answer,
    cpu_torch,
    images_of,
    runner_of,
)
from vl2v_deploy.client.onnx_file import Parity
from vl2v_deploy.errors import BundleError, ImageError, ParityError, ProviderError
from vl2v_deploy.exporting.options import EngineRequest
from vl2v_deploy.exporting.tensorrt import runner as engine_runner
from vl2v_deploy.exporting.tensorrt.build import build_engine, engine_name, require_buildable
from vl2v_deploy.exporting.tensorrt.passport import read_passport
from vl2v_deploy.exporting.tensorrt.runner import (
    RunEngine,
    open_engine,
    prove_engine,
    read_signature,
)

trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
__all__ = ["cpu_torch"]  # the fixture
PARITY = made_up_file("student.onnx").parity


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("batch", [2, 3, 6])
def test_answers_each_batch_of_the_profile_from_the_same_buffers(cpu_torch: None, batch: int) -> None:
    engine = FakeEngine()
    with runner_of(engine) as runner:
        addresses = dict(engine.contexts[0].addresses)
        first = runner(images_of(6))
        kept = [array.copy() for array in first]
        logits, embedding = runner(images_of(batch))
        assert (logits.shape, embedding.shape) == ((batch, CLASSES), (batch, EMBEDDING))
        assert (logits.dtype, embedding.dtype) == (np.float32, np.float32)
        for got, expected in zip((logits, embedding), answer(images_of(batch)), strict=True):
            np.testing.assert_array_equal(got, expected)
        for got, expected in zip(first, kept, strict=True):
            np.testing.assert_array_equal(got, expected)  # an answer is not overwritten by the next
        assert engine.contexts[0].addresses == addresses
        assert len(engine.contexts) == 1


@pytest.mark.parametrize("batch", [0, 1, 7, 64])
def test_a_batch_outside_the_profile_is_refused_before_anything_is_launched(
    cpu_torch: None, batch: int
) -> None:
    engine = FakeEngine()
    with runner_of(engine) as runner:
        with pytest.raises(
            ImageError, match=rf"fp16\.plan: batch {batch} is outside its profile 2:3:6; .*--profile"
        ):
            runner(images_of(batch))
        assert engine.launches == []
        assert engine.contexts[0].batch == 0


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, SIZE_PX, SIZE_PX, 3), np.float32),
        np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8),
        np.zeros((2, 3, SIZE_PX, SIZE_PX), np.uint8),
        np.zeros((2, SIZE_PX, SIZE_PX + 1, 3), np.uint8),
    ],
    ids=["float", "one image", "channels first", "another size"],
)
def test_other_arrays_are_refused(cpu_torch: None, images: np.ndarray) -> None:
    engine = FakeEngine()
    with pytest.raises(ImageError, match=r"expected images uint8 \(B, 8, 8, 3\), got"):
        runner_of(engine)(images)
    assert engine.launches == []


def test_failures_of_the_library_are_errors_not_answers(cpu_torch: None) -> None:
    for field, said in (("takes_shapes", "batch 2 was refused"), ("executes", "failed at batch 2")):
        engine = FakeEngine()
        runner = runner_of(engine)
        setattr(engine, field, False)
        with pytest.raises(ProviderError, match=said):
            runner(images_of(2))


def test_an_engine_that_answers_another_batch_than_it_was_given_is_refused(cpu_torch: None) -> None:
    engine = FakeEngine()
    engine.fixed_batch = 1
    with pytest.raises(ProviderError, match=r"logits: expected \(2, 5\) of batch 2, got \(1, 5\)"):
        runner_of(engine)(images_of(2))
    assert engine.launches == []


def test_closed_is_closed(cpu_torch: None) -> None:
    runner = runner_of(FakeEngine())
    with runner:
        runner(images_of(2))
    runner.close()
    with pytest.raises(ProviderError, match="was closed"):
        runner(images_of(2))


def test_each_batch_size_is_captured_once_in_a_context_of_its_own(
    cpu_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[Any] = []

    @contextmanager
    def capture(graph: FakeGraph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        context = engine.contexts[-1]
        yield
        graph.captured = (runner, context, context.batch)
        captured.append(context.batch)

    monkeypatch.setattr(engine_runner.torch.cuda, "graph", capture)
    engine = FakeEngine()
    with runner_of(engine, cuda_graph=True) as runner:
        for batch in (2, 6, 2, 3, 6, 2):
            for got, expected in zip(runner(images_of(batch)), answer(images_of(batch)), strict=True):
                np.testing.assert_array_equal(got, expected)
    assert captured == [2, 6, 3]
    assert len(engine.contexts) == 3
    monkeypatch.setattr(engine_runner, "MOST_GRAPHS", 2)
    captured.clear()
    engine = FakeEngine()
    with runner_of(engine, cuda_graph=True) as runner:
        for batch in (2, 6, 3, 6, 2):
            runner(images_of(batch))
        assert runner._graphs is not None and len(runner._graphs) == 2
    assert captured == [2, 6, 3, 2]


def test_signature_is_read_from_the_engine() -> None:
    signature = read_signature("x", trt, FakeEngine())
    assert (signature.profile, signature.size_px) == (PROFILE, SIZE_PX)
    assert (signature.classes, signature.embedding) == (CLASSES, EMBEDDING)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": (trt.TensorIOMode.INPUT, trt.DataType.FLOAT, (-1, SIZE_PX, SIZE_PX, 3))},
        {"images": (trt.TensorIOMode.INPUT, trt.DataType.UINT8, (-1, 3, SIZE_PX, SIZE_PX))},
        {"images": (trt.TensorIOMode.INPUT, trt.DataType.UINT8, (-1, -1, -1, 3))},
        {"logits": (trt.TensorIOMode.OUTPUT, trt.DataType.HALF, (-1, CLASSES))},
        {"logits": (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (-1, CLASSES, 1))},
        {"mask": (trt.TensorIOMode.INPUT, trt.DataType.FLOAT, (-1, 1))},
    ],
    ids=["float input", "channels first", "any size", "half output", "rank", "one more"],
)
def test_an_engine_with_other_inputs_and_outputs_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"expected images: uint8 .*, got input images"):
        read_signature("x", trt, FakeEngine(IO | changed))


@pytest.fixture
def proved(cpu_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, FakeEngine]:
    """A real RTX plan with its passport, and an engine of Python in its place where it would be loaded."""
    plan = tmp_path / "student.fp16.plan"
    request = EngineRequest("tensorrt_rtx", PROFILE, ("8.6",))
    build_engine(require_buildable(request), request, write_graph(tmp_path / "student.onnx"), plan)
    engine = FakeEngine()
    monkeypatch.setattr(engine_runner, "require_runnable", lambda *_: None)
    monkeypatch.setattr(engine_runner, "load_engine", lambda *_, **__: engine)
    return plan, engine


def test_parity_is_asked_at_min_opt_and_max_and_written_down(proved: tuple[Path, FakeEngine]) -> None:
    plan, engine = proved

    def check(run: RunEngine, batch_sizes: tuple[int, ...]) -> Parity:
        for batch in (*batch_sizes, 1):  # as the last images of a set may be fewer than the profile takes
            for got, expected in zip(run(images_of(batch)), answer(images_of(batch)), strict=True):
                np.testing.assert_array_equal(got, expected)
        return replace(PARITY, batch_sizes=batch_sizes)

    prove_engine(plan, check)
    assert engine.launches == [2, 3, 6, 2]
    made = read_passport(plan)
    assert (made.usable, made.parity) == (True, replace(PARITY, batch_sizes=(2, 3, 6)))


@pytest.mark.parametrize("error", [ParityError, ProviderError])
def test_a_failed_check_marks_the_engine_and_deletes_nothing(
    proved: tuple[Path, FakeEngine], error: type[Exception]
) -> None:
    plan, _ = proved
    held = plan.read_bytes()

    def check(*_: Any) -> Parity:
        raise error("student.fp16.plan: disagrees at batch 6")

    with pytest.raises(error, match="at batch 6"):
        prove_engine(plan, check)
    assert plan.read_bytes() == held
    made = read_passport(plan)
    assert (made.usable, made.unusable_because) == (False, "student.fp16.plan: disagrees at batch 6")


def test_a_passport_of_another_profile_is_refused(proved: tuple[Path, FakeEngine]) -> None:
    plan, _ = proved
    path = plan.with_name(f"{plan.name}.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"profile": {"min": 1, "opt": 3, "max": 6}}))
    with pytest.raises(BundleError, match=r"built for 2:3:6, its passport says 1:3:6"):
        open_engine(plan)


# From here on: a real engine on a real GPU.

FLAVOUR = "tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt_rtx"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
# Largest difference from onnxruntime's answers to the same file, as a share of the largest one.
# fp32: order of sums; fp16: its 11 bits; int8: another of 127 levels where a sum was a little off.
LIMITS = {"fp32": 1e-4, "fp16": 5e-3, "int8": 5e-2}


def built(tmp_path: Path, precision: str, **options: Any) -> tuple[Path, Path]:
    request = EngineRequest(FLAVOUR, PROFILE, **options)  # type: ignore[arg-type]
    form = Form(**(INT8 if precision == "int8" else {"precision": precision}))  # type: ignore[arg-type]
    source, plan = write_graph(tmp_path / "student.onnx", form), tmp_path / engine_name(request, precision)
    build_engine(require_buildable(request), request, source, plan, precision=precision)
    return source, plan


def reference(source: Path, images: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return list(session.run(["logits", "embedding"], {"images": images}))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_real_engine_agrees_at_every_batch_size(tmp_path: Path, precision: str, cuda_graph: bool) -> None:
    source, plan = built(tmp_path, precision)
    with open_engine(plan, cuda_graph=cuda_graph) as runner:
        for batch in (2, 3, 6, 4, 2, 6):  # min, opt, max, one between, and back
            images = images_of(batch)
            for got, expected in zip(runner(images), reference(source, images), strict=True):
                limit = LIMITS[precision] * float(np.abs(expected).max())
                np.testing.assert_allclose(got, expected, rtol=0, atol=limit)
        same = np.repeat(images_of(2)[:1], 6, axis=0)  # identical images, identical answers
        for array in runner(same):
            np.testing.assert_allclose(array, np.repeat(array[:1], 6, axis=0), rtol=1e-5)
        with pytest.raises(ImageError, match="outside its profile"):
            runner(images_of(7))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_real_engine_proves_its_precision(tmp_path: Path, precision: str) -> None:
    _, plan = built(tmp_path, precision)
    proof = read_passport(plan).precision_proof
    assert proof.engine_layers_note is None, proof
    assert proof.engine_shares[precision] > 0.5, proof
    assert "tf32" not in proof.engine_layers


@pytest.mark.gpu
@on_gpu
def test_a_real_engine_is_proved_or_marked(tmp_path: Path) -> None:
    source, plan = built(tmp_path, "fp32")

    def check(run: RunEngine, batch_sizes: tuple[int, ...]) -> Parity:
        for batch in batch_sizes:
            np.testing.assert_allclose(
                run(images_of(batch))[0], reference(source, images_of(batch))[0], rtol=1e-3, atol=1e-3
            )
        return replace(PARITY, batch_sizes=batch_sizes)

    prove_engine(plan, check)
    assert read_passport(plan).usable is True

    def wrong(*_: Any) -> Parity:
        raise ParityError("wrong on purpose")

    with pytest.raises(ParityError, match="wrong on purpose"):
        prove_engine(plan, wrong)
    with pytest.raises(ParityError, match="marked unusable"):
        open_engine(plan)


@pytest.mark.gpu
@on_gpu
@pytest.mark.skipif(FLAVOUR != "tensorrt", reason="needs TensorRT: TensorRT-RTX has none of this")
def test_tensorrt_keeps_a_timing_cache_and_builds_for_other_gpus(tmp_path: Path) -> None:
    _, plan = built(tmp_path, "fp32")
    assert read_passport(plan).timing_cache.loaded_bytes == 0
    _, plan = built(tmp_path, "fp32", hardware_compatible="same-capability", builder_level=2)
    made = read_passport(plan)
    assert made.timing_cache.loaded_bytes > 0
    assert (made.hardware_compatible, made.builder_level) == ("same-capability", 2)
    with open_engine(plan) as runner:
        assert runner(images_of(2))[0].shape == (2, CLASSES)
