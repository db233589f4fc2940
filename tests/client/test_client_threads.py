"""Default threads: the least of affinity, CPU quota and physical cores, wherever something computes."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.container_threads import cpu_group, run_inside
from tests.helpers.colour_bundle import make_colour_bundle, make_data
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import MicroBatcher, Student, threads
from vl2v_deploy.client.stream import default_workers
from vl2v_deploy.client.threads import (
    CpuQuota,
    DefaultThreads,
    cpu_quota,
    default_threads,
    physical_cores,
    session_threads,
)
from vl2v_deploy.errors import BenchmarkError, SettingError
from vl2v_deploy.models import device

V1 = "31 23 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
SET_V1 = "32 23 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
V2 = "33 23 0:31 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CPU_V1 = "sys/fs/cgroup/cpu,cpuacct"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")


@pytest.fixture(autouse=True)
def _read_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    default_threads.cache_clear()
    yield
    default_threads.cache_clear()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("threads")
    return make_colour_bundle(root / "bundle", make_data(root / "data"))


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float | None], None]:
    """Have the process believe in so many physical cores and such a quota."""

    def believe(cores: int, cpus: float | None) -> None:
        monkeypatch.setattr(threads, "physical_cores", lambda: cores)
        quota = None if cpus is None else CpuQuota(cpus, Path("cpu.max"))
        monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
        monkeypatch.setattr("sys.platform", "linux")

    return believe


def tree(root: Path, group: str, mounts: str, files: dict[str, str]) -> Path:
    """A fake root directory: what /proc says of this process, and files of its groups."""
    for name, text in {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(folder: str, quota_us: int, period_us: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota_us}\n", f"{folder}/cpu.cfs_period_us": f"{period_us}\n"}


@pytest.mark.parametrize(
    ("group", "mounts", "files", "cpus"),
    [
        pytest.param("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None, id="v2-no-limit"),
        pytest.param("0::/\n", V2, {}, None, id="v2-root-has-no-such-file"),
        pytest.param(
            "0::/pod/app\n",
            V2,
            {"sys/fs/cgroup/pod/cpu.max": "50000 100000", "sys/fs/cgroup/pod/app/cpu.max": "200000 100000"},
            0.5,
            id="v2-the-outer-is-smaller",
        ),
        pytest.param(
            "0::/pod/app\n",
            V2,
            {"sys/fs/cgroup/pod/cpu.max": "max 100000", "sys/fs/cgroup/pod/app/cpu.max": "20000 10000"},
            2.0,
            id="v2-the-inner-is-smaller",
        ),
        pytest.param(
            "0::/../other\n",
            V2,
            {"sys/fs/cgroup/cpu.max": "300000 100000", "sys/fs/other/cpu.max": "1000 100000"},
            3.0,
            id="v2-outside-its-namespace",
        ),
        pytest.param("3:cpuset:/\n2:cpu,cpuacct:/\n", SET_V1 + V1, v1(CPU_V1, 250_000), 2.5, id="v1"),
        pytest.param("2:cpu,cpuacct:/\n", V1, v1(CPU_V1, -1), None, id="v1-no-limit"),
        pytest.param(
            "2:cpu,cpuacct:/docker/a\n",
            V1.replace(" / ", " /docker/a ", 1),
            v1(CPU_V1, 40_000, 20_000),
            2.0,
            id="v1-a-container-told-the-hosts-name",
        ),
        pytest.param(
            "2:cpu,cpuacct:/docker/a\n",
            V1.replace(" / ", " /docker/b ", 1),
            v1(CPU_V1, 70_000),
            0.7,
            id="v1-another-name-at-the-top",
        ),
        pytest.param(
            "2:cpu,cpuacct:/a/b\n0::/a\n",
            V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
            v1(f"{CPU_V1}/a", 90_000) | v1(f"{CPU_V1}/a/b", 100_000),
            0.9,
            id="both-versions-nested",
        ),
        pytest.param("2:cpuset:/\n", SET_V1, v1("sys/fs/cgroup/cpuset", 1000), None, id="not-the-controller"),
        pytest.param(
            "0::/\n",
            V2.replace("/sys/fs/cgroup", r"/my\040groups"),
            {"my groups/cpu.max": "100000 100000"},
            1.0,
            id="a-mount-with-a-blank",
        ),
        pytest.param("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "100000 0"}, None, id="no-period"),
        pytest.param("nonsense\n", "more of it\n", {}, None, id="nonsense"),
    ],
)
def test_the_quota_of_control_groups(
    group: str, mounts: str, files: dict[str, str], cpus: float | None, tmp_path: Path
) -> None:
    quota = cpu_quota(tree(tmp_path, group, mounts, files))
    assert (quota and quota.cpus) == cpus
    assert quota is None or quota.source.is_file()


def test_no_quota_is_known_where_proc_is_missing(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores of two hyper-threads; this process may run on three of them, one of those by both."""
    monkeypatch.setattr(threads, "usable_cpus", lambda: (0, 1, 4, 6))
    for cpu in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert physical_cores(tmp_path) == 3
    assert physical_cores(tmp_path / "no-such-tree") == 4


@pytest.mark.parametrize(
    ("cores", "cpus", "count", "reason"),
    [
        (8, None, 8, "physical cores"),
        (8, 0.5, 1, "the CPU quota is 0.5 (cpu.max)"),
        (8, 2.0, 2, "the CPU quota is 2 (cpu.max)"),
        (8, 2.01, 3, "the CPU quota is 2.01 (cpu.max)"),
        (2, 16.0, 2, "physical cores"),
    ],
)
def test_default_threads_are_the_least_that_is_allowed(
    cores: int, cpus: float | None, count: int, reason: str, allow: Callable[[int, float | None], None]
) -> None:
    allow(cores, cpus)
    assert default_threads().count == count
    assert reason in default_threads().why
    assert session_threads() == (count, default_threads().why)
    assert default_workers(None) == min(count, 8)


def test_default_threads_are_read_once(allow: Callable[[int, float | None], None]) -> None:
    allow(4, None)
    default_threads()
    allow(2, None)
    assert default_threads().count == 4


@needs_linux
def test_threads_follow_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    first = min(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {first})
    assert default_threads().count == 1


def test_a_students_threads_and_where_they_come_from(
    bundle: Path, allow: Callable[[int, float | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(6, 2.5)
    with Student.load(bundle) as student:
        options = student._session.get_session_options()
        assert (student.runtime.threads, options.intra_op_num_threads) == (3, 3)
        assert student.runtime.why.endswith("3 threads: the CPU quota is 2.5 (cpu.max)")
        with MicroBatcher(student) as batcher:
            assert batcher._pool._max_workers == 3
    with Student.load(bundle, precision="fp32", threads=5) as student:
        assert student._session.get_session_options().intra_op_num_threads == 5
        assert (student.runtime.threads, student.runtime.why) == (5, "as asked for")
    monkeypatch.setenv(threads.VARIABLE, "4")
    with Student.load(bundle, precision="fp32") as student:
        assert student._session.get_session_options().intra_op_num_threads == 4
        assert student.runtime.threads == 4
        assert student.runtime.why == "4 threads: ORT_INTRA_OP_NUM_THREADS is 4"
    with Student.load(bundle, threads=5) as student:
        assert student.runtime.threads == 5


def test_onnxruntimes_variable_for_threads(
    allow: Callable[[int, float | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(6, 0.5)
    monkeypatch.setenv(threads.VARIABLE, "0")  # what the machine has, whatever the quota
    assert session_threads()[0] == 6
    monkeypatch.setenv(threads.VARIABLE, "")
    assert session_threads()[0] == 1
    monkeypatch.setenv(threads.VARIABLE, "-1")
    with pytest.raises(SettingError, match="ORT_INTRA_OP_NUM_THREADS=-1: expected a whole number"):
        session_threads()


def test_elsewhere_threads_are_onnxruntimes_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    count, why = session_threads()
    assert count is None
    assert "onnxruntime's own choice" in why


def test_a_student_loaded_again_says_its_own_threads(
    bundle: Path, allow: Callable[[int, float | None], None]
) -> None:
    allow(6, 2.0)
    with Student.load(bundle) as student:
        with pickle.loads(pickle.dumps(student)) as same:
            assert same.runtime == student.runtime
        default_threads.cache_clear()
        allow(6, 1.0)  # as in a process of another container
        with pickle.loads(pickle.dumps(student)) as other:
            assert other.runtime.threads == 1
            assert "2 threads" in other.runtime.why
            assert other.runtime.why.endswith("1 thread: the CPU quota is 1 (cpu.max)")


def test_a_report_says_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vl2v_deploy.benchmarking.worker.device.cpu_quota", lambda: CpuQuota(0.5, Path("cpu.max"))
    )
    assert describe_device()["cpu_quota"] == "0.5"
    monkeypatch.setattr("vl2v_deploy.benchmarking.worker.device.cpu_quota", lambda: None)
    assert "cpu_quota" not in describe_device()


@pytest.mark.parametrize(
    ("has", "allowed", "environment", "expected"),
    [
        (8, 2, {}, 2),  # torch's default: a thread for each physical core
        (16, 2, {}, 2),  # or for each hyper-thread
        (8, 8, {}, None),
        (16, 8, {}, 8),
        (1, 2, {}, None),  # fewer, as a user told torch
        (5, 2, {}, None),  # a number that is no default of torch's
        (8, 2, {"OMP_NUM_THREADS": "8"}, None),
        (8, 2, {"MKL_NUM_THREADS": "8"}, None),
    ],
)
def test_threads_of_torch(
    has: int, allowed: int, environment: dict[str, str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fake = SimpleNamespace(get_num_threads=lambda: has, set_num_threads=told.append)
    monkeypatch.setattr(device, "torch", fake)
    monkeypatch.setattr(device, "physical_cores", lambda: 8)
    monkeypatch.setattr(device, "usable_cpus", lambda: tuple(range(16)))
    monkeypatch.setattr(device, "default_threads", lambda: DefaultThreads(allowed, "a test"))
    device.limit_torch_threads()
    assert told == ([] if expected is None else [expected])


IN_GROUP = """
import json
from vl2v_deploy.client import MicroBatcher, Student
from vl2v_deploy.client.stream import default_workers

with Student.load(sys.argv[1], precision="fp32") as student, MicroBatcher(student) as batcher:
    workers = [default_workers(student.runtime.threads), batcher._pool._max_workers]
    print(json.dumps([student.runtime.threads, *workers, student.runtime.why]))
"""


@needs_linux
@pytest.mark.parametrize("cpus", [0.5, 1.0, 64.0])
def test_threads_in_a_real_control_group_with_a_quota(bundle: Path, cpus: float) -> None:
    try:
        with cpu_group(cpus) as group:
            *counts, why = json.loads(run_inside(group, IN_GROUP, str(bundle)))
    except BenchmarkError as error:
        if "no control group" not in str(error):
            raise
        pytest.skip(str(error))
    assert counts == [min(ceil(cpus), physical_cores())] * 3
    assert (f"the CPU quota is {cpus:g} ({group}" in why) == (ceil(cpus) < physical_cores())
    assert not group.exists()
