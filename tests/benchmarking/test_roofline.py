"""The machine's peaks and an engine's share of them: known speeds in, the same speeds out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import slow_library
from tests.helpers.slow_library import COPY_BYTES, COPY_S, FAST_S, SIZE, SLOW_S
from vl2v_deploy.benchmarking.judge.roofline import limit, roofline_shares, roofline_warnings
from vl2v_deploy.benchmarking.measure.peaks import measure_peaks
from vl2v_deploy.benchmarking.schema import Cell, EngineMeasurement, GraphWork, MachinePeaks, Scope
from vl2v_deploy.benchmarking.worker import peaks_cpu, peaks_worker
from vl2v_deploy.benchmarking.worker.peaks_cpu import cpu_copy, cpu_products
from vl2v_deploy.errors import BenchmarkError

FAKE = (sys.executable, str(Path(slow_library.__file__)))
FLOPS = 2 * SIZE**3


def test_a_slow_library_is_reported_slow_and_a_faster_one_counts() -> None:
    """Sleeping takes no less than it should; a machine under load may take much longer."""
    peaks = measure_peaks(3, timeout_s=60, command=FAKE)
    assert (peaks.device, peaks.threads) == ("cpu", 3)
    assert FLOPS / SLOW_S < peaks.gemm_flops_per_s["fp32"] <= FLOPS / FAST_S
    assert 0 < peaks.gemm_flops_per_s["int8"] <= FLOPS / SLOW_S
    assert 0 < peaks.copy_bytes_per_s <= 2 * COPY_BYTES / COPY_S
    assert peaks.how["fp32"] == "fast, 100 x 100 x 100; tried: slow (100, 2), fast (100)"
    assert peaks.how["int8"] == "slow, 100 x 100 x 100; tried: slow (100)"
    assert (peaks.how["copy"], peaks.how["fp16"]) == ("asleep", "absent")


def test_the_processors_own_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and with small matrices; that every library computes what it is asked to."""
    monkeypatch.setattr(peaks_cpu, "SIZES", (64,))
    monkeypatch.setattr(peaks_cpu, "COPY_BYTES", 2**20)
    monkeypatch.setattr(peaks_cpu, "last_level_cache_bytes", lambda: 0)
    monkeypatch.setattr(peaks_worker, "SECONDS_EACH", 0.0)
    products = list(cpu_products(threads=1))
    assert {product.library for product in products} >= {
        "numpy",
        "onnxruntime MatMul",
        "onnxruntime MatMulInteger",
        "onnxruntime QDQ MatMul",
    }
    assert {product.kind for product in products} == {"fp32", "int8"}
    peaks = peaks_worker.best_of(products, cpu_copy(1), {"fp16": "absent"}, 1, "cpu")
    assert peaks.gemm_flops_per_s.keys() == {"fp32", "int8"}
    assert all(value > 0 for value in peaks.gemm_flops_per_s.values())
    assert peaks.copy_bytes_per_s > 0
    assert peaks.how["copy"] == "numpy copyto of 1 MiB by 1 thread(s), read and written"


def test_the_products_are_right() -> None:
    """A runtime that did not multiply would be fast too."""
    expected = peaks_cpu._floats(32) @ peaks_cpu._floats(32)
    [numpy] = peaks_cpu._numpy(32)
    np.testing.assert_allclose(numpy.run(), expected, rtol=1e-5)
    by_name = {product.library: product.run() for product in peaks_cpu._onnxruntime(32, threads=1)}
    np.testing.assert_allclose(by_name["onnxruntime MatMul"][0], expected, rtol=1e-5)  # type: ignore[index]
    _, (_, _, graph, pixels), _ = peaks_cpu._graphs(32)
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "w")
    whole = pixels.astype(np.int64) @ peaks_cpu.numpy_helper.to_array(weight).astype(np.int64)
    # on a CPU without VNNI two products of u8 and s8 may saturate in 16 bits: most are right even there
    right = by_name["onnxruntime MatMulInteger"][0] == whole  # type: ignore[index]
    assert right.mean() > 0.5


def test_the_copy_copies_everything_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks_cpu, "COPY_BYTES", 1001)
    monkeypatch.setattr(peaks_cpu, "last_level_cache_bytes", lambda: 0)
    made: list[np.ndarray] = []
    zeros = np.zeros
    monkeypatch.setattr(np, "zeros", lambda *given: made.append(zeros(*given)) or made[-1])
    copy = cpu_copy(threads=3)
    copy.run()
    [target] = made
    assert copy.size_bytes == 1001
    assert target.all()


def test_a_copy_is_larger_than_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks_cpu, "COPY_BYTES", 1000)
    monkeypatch.setattr(peaks_cpu, "last_level_cache_bytes", lambda: 5000)
    assert cpu_copy(threads=1).size_bytes == 20000


def test_devices_that_are_not_there() -> None:
    with pytest.raises(BenchmarkError, match="device tpu: expected cpu or cuda"):
        measure_peaks(1, timeout_s=60, device="tpu")


def test_a_stalled_measurement_ends() -> None:
    sleeper = (sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(BenchmarkError, match="'peaks of cpu' stalled"):
        measure_peaks(1, timeout_s=0.2, command=sleeper)


WORK = GraphWork(
    flops={"fp32": 100, "int8": 1000}, weight_bytes=400, activation_bytes=10**6, input_output_bytes=50
)


def peaks_of(device: str = "cpu", threads: int = 2, **by_type: float) -> MachinePeaks:
    return MachinePeaks(
        device=device,
        threads=threads,
        gemm_flops_per_s=by_type or {"fp32": 1000.0, "int8": 5000.0},
        copy_bytes_per_s=900.0,
        how={},
    )


def test_the_limit_is_the_nearer_of_compute_and_memory() -> None:
    # compute: 100 / 1000 + 1000 / 5000 = 0.3 s; memory: (400 / batch + 50) / 900
    one, two = limit(WORK, peaks_of(), 1), limit(WORK, peaks_of(), 2)
    assert (one.images_per_s, one.bound_by) == (pytest.approx(2.0), "memory")
    assert (two.images_per_s, two.bound_by) == (pytest.approx(1 / 0.3), "compute")


def test_fp16_is_fp32_on_a_processor_and_nothing_else_on_a_gpu() -> None:
    half = WORK.model_copy(update={"flops": {"fp16": 100}, "weight_bytes": 0})
    assert limit(half, peaks_of(fp32=1000.0), 1).images_per_s == pytest.approx(10.0)
    with pytest.raises(
        BenchmarkError, match="computes in fp16: no peak was measured on cuda; measured: fp32"
    ):
        limit(half, peaks_of("cuda", fp32=1000.0), 1)


def engine(name: str = "onnxruntime:int8", *cells: Cell, runtime: str = "onnxruntime") -> EngineMeasurement:
    return EngineMeasurement(
        name=name,
        kind="student",
        runtime=runtime,
        precision="int8",
        status="measured",
        work=WORK,
        cells=list(cells),
    )


def cell(
    batch: int, sample_s: float, *, scope: Scope = "session", threads: int = 2, streams: int = 1
) -> Cell:
    return Cell(
        scope=scope,
        batch=batch,
        threads=threads,
        streams=streams,
        warm_up_s=[],
        steady=True,
        rounds_s=[[sample_s], [sample_s]],
        wall_s=[sample_s, sample_s],
    )


def test_the_share_is_of_the_session_alone_on_the_same_threads() -> None:
    measured = engine(
        "onnxruntime:int8",
        cell(1, 2.0),
        cell(2, 1.2),
        cell(1, 2.0, scope="bytes_to_label"),
        cell(1, 2.0, threads=1),
        cell(1, 2.0, streams=2),
    )
    first, second = roofline_shares(measured, [peaks_of("cuda"), peaks_of()])
    assert (first.batch, first.bound_by, first.images_per_s) == (1, "memory", 0.5)
    assert first.share == pytest.approx(0.25)
    assert (second.batch, second.bound_by) == (2, "compute")
    assert second.share == pytest.approx(2 / 1.2 * 0.3)
    assert roofline_shares(measured.model_copy(update={"work": None}), [peaks_of()]) == []
    assert roofline_shares(measured, [peaks_of("cuda")]) == []


@pytest.mark.parametrize(
    ("name", "runtime"), [("torch:fp32@cuda", "torch"), ("tensorrt:fp16", "tensorrt"), ("x@tensorrt", "x")]
)
def test_an_engine_on_a_gpu_has_the_gpus_limit(name: str, runtime: str) -> None:
    measured = engine(name, cell(1, 2.0), runtime=runtime)
    assert roofline_shares(measured, [peaks_of()]) == []
    assert len(roofline_shares(measured, [peaks_of(), peaks_of("cuda")])) == 1


def test_a_share_above_one_is_explained() -> None:
    measured = engine("quick", cell(1, 0.25), cell(2, 0.5), cell(2, 1.0))
    low, high, none = roofline_shares(measured, [peaks_of()])
    assert low.share > 1 > none.share
    assert high.share > 1
    memory, compute = roofline_warnings(measured, [peaks_of()])
    assert "quick, batch 1, 2 thread(s): 2.00 of the roofline's limit, which is thus too low" in memory
    assert "caches" in memory
    assert "Winograd" in compute


def test_a_missing_peak_is_said() -> None:
    measured = engine("onnxruntime:int8", cell(1, 2.0))
    machine = [peaks_of(fp32=1000.0)]
    assert roofline_shares(measured, machine) == []
    [said] = roofline_warnings(measured, machine)
    assert said == "onnxruntime:int8: no roofline: the peak of int8 was not measured on cpu"


@pytest.mark.gpu
def test_the_gpus_own_peaks() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    peaks = measure_peaks(1, timeout_s=300, device="cuda")
    assert peaks.gemm_flops_per_s["fp16"] > peaks.gemm_flops_per_s["fp32"] > 0
    assert peaks.gemm_flops_per_s["int8"] > 0
    assert peaks.copy_bytes_per_s > 0


def test_without_a_gpu_that_is_said() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    with pytest.raises(BenchmarkError, match="torch finds no GPU here"):
        measure_peaks(1, timeout_s=120, device="cuda")
