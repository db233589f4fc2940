"""Joules of a stretch of work: RAPL counts the processor's package, NVML the GPU's board; no estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Literal

from vl2v_deploy.benchmarking.worker.nvml import board_joules, require_energy_counter

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """A meter that could be read.

    start: reads it, and returns a function that returns the joules since then
    """

    kind: Literal["rapl", "nvml"]
    start: Callable[[], Callable[[], float]]

    def idle_watts(self, seconds: float) -> float:
        """Mean power in so many seconds while this process and those it started are idle."""
        since, begin = self.start(), perf_counter()
        sleep(seconds)
        return since() / (perf_counter() - begin)


def open_meter(device: str, powercap: Path = POWERCAP) -> tuple[Meter | None, str | None]:
    """The meter of the device that an engine computes on, and None; or None and why there is none.

    device:   cpu or cuda
    powercap: where the kernel exposes the counters of the processor
    """
    if device == "cuda":
        reason = require_energy_counter()
        return (None, reason) if reason else (Meter("nvml", _start_nvml), None)
    packages, reason = _packages(powercap)
    return (None, reason) if reason else (Meter("rapl", lambda: _start_rapl(packages)), None)


def _start_nvml() -> Callable[[], float]:
    before = board_joules()
    return lambda: board_joules() - before


def _start_rapl(packages: list[Path]) -> Callable[[], float]:
    before = [_microjoules(package) for package in packages]

    def since() -> float:
        total = 0
        for package, then in zip(packages, before, strict=True):
            spent = _microjoules(package) - then
            # The counter wraps around at its range; once at most, as that takes minutes at full power.
            total += spent if spent >= 0 else spent + _number(package / "max_energy_range_uj")
        return total / 1e6

    return since


def _packages(powercap: Path) -> tuple[list[Path], str | None]:
    """The counters of whole processor packages; their parts (cores, memory) would count twice."""
    found = [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))  # AMD's are called so too
        if _text(zone / "name").startswith("package")
    ]
    if not found:
        return [], f"{powercap} shows no processor package: the kernel or this container has no RAPL"
    try:
        for package in found:
            _microjoules(package)
    except OSError as error:
        file = error.filename
        return [], f"{file}: {error.strerror}; run as root, or: sudo chmod a+r {powercap}/*/energy_uj"
    return found, None


def _microjoules(package: Path) -> int:
    return _number(package / "energy_uj")


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
