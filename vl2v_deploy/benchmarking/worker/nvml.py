"""What the NVIDIA driver reports of its boards: name, memory of this process, energy."""

from __future__ import annotations

import functools
import os
from typing import Any


@functools.cache
def open_nvml() -> tuple[Any, str | None]:
    """NVML's Python module, started, and None; or None and why it cannot be used here."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return None, "nvidia-ml-py is not installed; run: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    return pynvml, None


def board_and_driver() -> tuple[str, str] | None:
    """Name of the board that engines use, and the driver's version; None where NVML reports none."""
    nvml, _ = open_nvml()
    if nvml is None:
        return None
    try:
        return str(nvml.nvmlDeviceGetName(_first_visible(nvml))), str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def process_memory_bytes() -> int | None:
    """GPU memory that this process holds now, over all boards; None where the driver does not report it.

    Also None in a container with its own process namespace: the driver knows this process by another id.
    """
    nvml, _ = open_nvml()
    if nvml is None:
        return None
    held = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            board = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(board):
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    held.append(int(process.usedGpuMemory))
    except nvml.NVMLError:
        return None
    return sum(held) if held else None


def board_joules() -> float:
    """Energy of the board that engines use, since the driver was loaded; NVMLError on boards before Volta.

    `open_nvml` must have found NVML.
    """
    nvml, _ = open_nvml()
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(_first_visible(nvml))) / 1e3


def _first_visible(nvml: Any) -> Any:
    """The board that CUDA calls 0; NVML itself ignores CUDA_VISIBLE_DEVICES.

    Where boards differ, CUDA numbers them differently from NVML, unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def require_energy_counter() -> str | None:
    """Why the energy of the board that engines use cannot be read; None when it can."""
    nvml, reason = open_nvml()
    if nvml is None:
        return reason
    try:
        board_joules()
    except nvml.NVMLError as error:
        return f"NVML: {error}"
    return None
