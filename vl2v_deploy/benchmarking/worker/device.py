"""The machine that a measurement was made on."""

from __future__ import annotations

import platform
from pathlib import Path

from vl2v_deploy.benchmarking.worker.nvml import board_and_driver, process_memory_bytes
from vl2v_deploy.client.threads import cpu_quota, physical_cores, usable_cpus

_most_gpu_bytes: int | None = None


def describe_device() -> dict[str, str | int]:
    """CPU model, cores that this process may use, system; CPU quota, GPU and driver where there are any."""
    gpu, quota = board_and_driver(), cpu_quota()
    return {
        "cpu": _cpu_model(),
        "physical_cores": physical_cores(),
        "logical_cores": len(usable_cpus()),
        **({"cpu_quota": f"{quota.cpus:g}"} if quota else {}),
        "machine": platform.machine(),
        "system": platform.platform(terse=True),
        **({"gpu": gpu[0], "driver": gpu[1]} if gpu else {}),
    }


def peak_rss_bytes() -> int | None:
    """The most memory this process has held; None where the system does not report it.

    Not getrusage: on Linux its ru_maxrss survives exec, so a worker would report its parent's peak.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def gpu_memory_bytes() -> int | None:
    """The most GPU memory that this process was seen to hold; None without a GPU or where not reported."""
    global _most_gpu_bytes
    held = process_memory_bytes()
    if held is not None:
        _most_gpu_bytes = max(held, _most_gpu_bytes or 0)
    return _most_gpu_bytes


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
