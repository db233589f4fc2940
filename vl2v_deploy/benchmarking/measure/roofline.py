"""Peaks of the devices and work of the graphs, for the engines that a benchmark measured."""

from __future__ import annotations

from collections.abc import Sequence

from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.benchmarking.measure.machine import count_work, measure_peaks
from vl2v_deploy.benchmarking.measure.subject import Subject
from vl2v_deploy.benchmarking.measure.time_box import TimeBox
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import MachinePeaks
from vl2v_deploy.client import Bundle
from vl2v_deploy.client.bundle import engine_precision
from vl2v_deploy.errors import BenchmarkError, BundleError

PEAKS_TIMEOUT_S = 300.0
# Of the peaks of one device: what a time box expects them to take.
PEAKS_S = 10.0


def peaks_of_devices(
    subjects: Sequence[Subject], scenario: Scenario, display: Display, box: TimeBox, notes: list[str]
) -> list[MachinePeaks]:
    """Peaks of each device at each number of threads that engines are measured with."""
    devices = sorted({subject.device for subject in subjects if subject.goes_on})
    peaks = []
    with display.task("Peaks of the machine", len(devices) * len(scenario.threads)) as advance:
        for device in devices:
            for threads in scenario.threads:
                if not box.has_room(PEAKS_S, f"peaks of the {device} with {threads} thread(s)"):
                    continue
                try:
                    peaks.append(measure_peaks(threads, PEAKS_TIMEOUT_S, device))
                except BenchmarkError as error:  # the rest of the benchmark needs no roofline
                    notes.append(f"roofline: {error}")
                advance(1)
    return peaks


def count_work_of_engines(subjects: Sequence[Subject], bundle: Bundle, notes: list[str]) -> None:
    """Work of each of the student's graphs; torch and TensorRT do what the file of their precision says."""
    for subject in subjects:
        found = subject.found
        if found.kind != "student" or not found.cells:
            continue
        onnx = subject.file
        if onnx is None or onnx.suffix != ".onnx":
            onnx = bundle.onnx_of(engine_precision(found.precision))
        try:
            found.work = count_work(onnx)
        except (BenchmarkError, BundleError) as error:
            notes.append(f"roofline: {subject.name}: {error}")
