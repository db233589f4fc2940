"""The machine's peaks and an engine's share of them: known speeds in, the same speeds out."""

from __future__ import annotations

import time

import pytest

from vl2v_deploy.benchmarking.judge.roofline import limit, missing_peaks, roofline_shares, roofline_warnings
from vl2v_deploy.benchmarking.measure.machine import measure_peaks
from vl2v_deploy.benchmarking.schema import EngineMeasurement, GraphWork, MachinePeaks, Scope, TimingCell
from vl2v_deploy.benchmarking.worker import peaks
from vl2v_deploy.errors import BenchmarkError


def test_the_processors_own_peaks_are_measured_in_a_worker() -> None:
    """Bounds that any processor of the last twenty years keeps, and none goes beyond."""
    found = measure_peaks(1, timeout_s=120)
    assert (found.device, found.threads) == ("cpu", 1)
    assert found.gemm_flops_per_s.keys() == {"fp32", "int8"}
    assert all(1e8 < flops_per_s < 1e15 for flops_per_s in found.gemm_flops_per_s.values())
    assert 1e7 < found.copy_bytes_per_s < 1e13
    assert found.how["copy"].endswith("256 MiB, read and written")


def test_the_fastest_time_is_what_was_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = iter([0.2, 0.03, 0.01, *[0.02] * 100])  # the first call warms up and does not count
    monkeypatch.setattr(peaks, "SECONDS_EACH", 0.1)
    assert 0.01 <= peaks._fastest_s(lambda: time.sleep(next(slept)), "cpu") < 0.02


def test_devices_that_are_not_there() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    with pytest.raises(BenchmarkError, match=r"device cuda: torch .* sees 0 CUDA"):
        measure_peaks(1, timeout_s=120, device="cuda")


WORK = GraphWork(flops={"fp32": 100, "int8": 1000}, weight_bytes=400, input_output_bytes=50)


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
    assert one == (pytest.approx(2.0), "memory")
    assert two == (pytest.approx(1 / 0.3), "compute")


def test_fp16_is_fp32_on_a_processor_and_nothing_else_on_a_gpu() -> None:
    half = WORK.model_copy(update={"flops": {"fp16": 100}, "weight_bytes": 0})
    assert limit(half, peaks_of(fp32=1000.0), 1)[0] == pytest.approx(10.0)
    assert missing_peaks(half, peaks_of("cuda", fp32=1000.0)) == ["fp16"]


def engine(
    name: str = "onnxruntime:int8", *cells: TimingCell, runtime: str = "onnxruntime"
) -> EngineMeasurement:
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
) -> TimingCell:
    return TimingCell(
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
    assert "quick, batch 1, 2 thread(s): 2.00 of the limit, which was measured too low" in memory
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
    found = measure_peaks(1, timeout_s=300, device="cuda")
    assert found.gemm_flops_per_s["fp16"] > found.gemm_flops_per_s["fp32"] > 0
    assert found.gemm_flops_per_s["int8"] > 0
    assert found.copy_bytes_per_s > 0
