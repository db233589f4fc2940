"""Energy meters: what they read of made-up counters, and what they say where there are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vl2v_deploy.benchmarking.measure import energy
from vl2v_deploy.benchmarking.measure.energy import open_meter
from vl2v_deploy.benchmarking.worker import nvml
from vl2v_deploy.benchmarking.worker.device import describe_device, gpu_memory_bytes

RANGE = 262_143_328_850


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages with their parts, and the zones of another driver, as Linux shows them."""
    names = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for zone, name in names.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
        set_counter(tmp_path, zone, 1_000_000)
    return tmp_path


def set_counter(powercap: Path, zone: str, microjoules: int) -> None:
    (powercap / zone / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_are_added_up_and_their_parts_are_not(powercap: Path) -> None:
    meter, reason = open_meter("cpu", powercap)
    assert meter is not None and reason is None and meter.kind == "rapl"
    since = meter.start()
    for zone, joules in (
        ("intel-rapl:0", 3),
        ("intel-rapl:1", 4),
        ("intel-rapl:0:0", 2),
        ("intel-rapl:2", 50),
    ):
        set_counter(powercap, zone, 1_000_000 + joules * 1_000_000)
    assert since() == pytest.approx(7.0)


def test_a_counter_that_starts_anew_is_carried_over(powercap: Path) -> None:
    set_counter(powercap, "intel-rapl:0", RANGE - 2_000_000)
    meter, _ = open_meter("cpu", powercap)
    assert meter is not None
    since = meter.start()
    set_counter(powercap, "intel-rapl:0", 5_000_000)
    set_counter(powercap, "intel-rapl:1", 2_000_000)
    assert since() == pytest.approx(2 + 5 + 1)


def test_idle_power_is_energy_over_time(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter, _ = open_meter("cpu", powercap)
    assert meter is not None
    now = iter([10.0, 12.0])
    monkeypatch.setattr(energy, "perf_counter", lambda: next(now))
    monkeypatch.setattr(energy, "sleep", lambda _: set_counter(powercap, "intel-rapl:0", 31_000_000))
    assert meter.idle_watts(2.0) == pytest.approx(15.0)


def test_counters_that_may_not_be_read_are_told_with_the_remedy(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(package: Path) -> int:  # as for every user but root since Linux 5.10
        raise PermissionError(13, "Permission denied", str(package / "energy_uj"))

    monkeypatch.setattr(energy, "_microjoules", refused)
    meter, reason = open_meter("cpu", powercap)
    assert meter is None and reason is not None
    assert "intel-rapl:0/energy_uj: Permission denied; run as root, or: sudo chmod a+r" in reason


def test_a_machine_without_counters_is_told(tmp_path: Path) -> None:
    meter, reason = open_meter("cpu", tmp_path / "nowhere")
    assert meter is None and reason is not None and "no processor package" in reason


class FakeNvml:
    """The driver of one board that has used 12.5 J, of which this process holds some memory."""

    NVMLError = RuntimeError

    def __init__(self, pid: int, counter: bool = True) -> None:
        self.pid, self.counter, self.millijoules = pid, counter, 12_500
        self.asked: list[int | str] = []

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's names
        self.asked.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:  # noqa: N802
        self.asked.append(name)
        return name

    def nvmlDeviceGetName(self, board: int | str) -> str:  # noqa: N802
        return f"Invented GPU {board}"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetTotalEnergyConsumption(self, board: int) -> int:  # noqa: N802
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, board: int) -> list[Any]:  # noqa: N802
        others = SimpleNamespace(pid=self.pid + 1, usedGpuMemory=999)
        return [others, SimpleNamespace(pid=self.pid, usedGpuMemory=4096)]


def test_a_gpu_board_tells_its_joules_and_this_process_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    driver = FakeNvml(os.getpid())
    monkeypatch.setattr(nvml, "open_nvml", lambda: (driver, None))
    meter, reason = open_meter("cuda")
    assert meter is not None and reason is None and meter.kind == "nvml"
    since = meter.start()
    driver.millijoules += 3_250
    assert since() == pytest.approx(3.25)
    assert nvml.process_memory_bytes() == 4096
    driver.pid += 7  # a container's own numbering: the driver does not know this process
    assert nvml.process_memory_bytes() is None


@pytest.mark.parametrize(
    ("visible", "board"), [("", 0), ("2,0", 2), ("GPU-8932f937-d72c", "GPU-8932f937-d72c"), ("-1", 0)]
)
def test_the_board_is_the_one_that_cuda_sees_first(
    visible: str, board: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeNvml(1)
    monkeypatch.setattr(nvml, "open_nvml", lambda: (driver, None))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml.board_joules()
    assert driver.asked == [board]


def test_the_device_has_the_board_and_its_driver_and_neither_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(nvml, "open_nvml", lambda: (FakeNvml(1), None))
    told = describe_device()
    assert (told["gpu"], told["driver"]) == ("Invented GPU 1", "580.65.06")
    monkeypatch.setattr(nvml, "open_nvml", lambda: (None, "NVML: no driver"))
    assert not {"gpu", "driver"} & describe_device().keys()


def test_a_board_without_an_energy_counter_and_a_machine_without_nvml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml, "open_nvml", lambda: (FakeNvml(1, counter=False), None))
    assert open_meter("cuda") == (None, "NVML: Not Supported")
    monkeypatch.setattr(nvml, "open_nvml", lambda: (None, "NVML: no driver"))
    assert open_meter("cuda") == (None, "NVML: no driver")


def test_gpu_memory_is_the_most_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from vl2v_deploy.benchmarking.worker import device

    held = iter([100, 300, 200, None])
    monkeypatch.setattr(device, "_most_gpu_bytes", None)
    monkeypatch.setattr(device, "process_memory_bytes", lambda: next(held))
    assert [gpu_memory_bytes() for _ in range(4)] == [100, 300, 300, 300]


@pytest.mark.gpu
def test_a_real_board_counts_upwards() -> None:
    if reason := nvml.require_energy_counter():
        pytest.skip(reason)
    assert nvml.board_joules() > 0
