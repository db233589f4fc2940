"""The machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from vl2v_deploy.benchmarking.worker.nvml import board_and_driver, process_memory_bytes

_most_gpu_bytes: int | None = None


def describe_device() -> dict[str, str | int]:
    """CPU model, cores that this process may use, system, and the GPU and its driver if there is one."""
    gpu = board_and_driver()
    return {
        "cpu": _cpu_model(),
        "physical_cores": physical_cores(),
        "logical_cores": len(_usable_cpus()),
        "machine": platform.machine(),
        "system": platform.platform(terse=True),
        **({"gpu": gpu[0], "driver": gpu[1]} if gpu else {}),
    }


def physical_cores() -> int:
    """Physical cores among the CPUs this process may run on; at least 1.

    Two hyper-threads of one core share its arithmetic units: a thread on each makes inference slower.
    """
    siblings = set()
    for cpu in _usable_cpus():
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        # Where the kernel does not say (containers, other systems), each CPU counts as a core.
        siblings.add(path.read_text() if path.is_file() else str(cpu))
    return len(siblings)


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


def _usable_cpus() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
