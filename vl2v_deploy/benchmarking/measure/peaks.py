"""What the machine reaches at its best: large matrix products by type, and copies larger than its caches.

An upper limit is only as good as the best that was tried, so several libraries and sizes are: the fastest
counts. Nothing is taken from a data sheet. Each device and number of threads is measured in a process of its
own, with the same environment as an engine's.
"""

from __future__ import annotations

import sys

from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec
from vl2v_deploy.benchmarking.schema import MachinePeaks

WORKER = (sys.executable, "-m", "vl2v_deploy.benchmarking.worker.peaks_worker")


def measure_peaks(
    threads: int, timeout_s: float, device: str = "cpu", command: tuple[str, ...] = WORKER
) -> MachinePeaks:
    """Peaks of this machine with so many threads, in some ten seconds.

    threads:   of every library that is tried
    timeout_s: after which the measuring counts as stalled
    device:    cpu or cuda
    command:   the worker; a test's own is how a library of known speed comes in

    Raises BenchmarkError when the worker dies, stalls, or has no such device.
    """
    settings = {"threads": threads, "device": device, "images": []}
    with EngineProcess(EngineSpec(f"peaks of {device}", settings, command), timeout_s) as process:
        return MachinePeaks.model_validate(process.facts)
