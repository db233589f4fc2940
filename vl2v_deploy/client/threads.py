"""How many threads compute by default: what affinity, a container's CPU quota and the cores allow.

A quota (`docker run --cpus`, a limit of Kubernetes) is enforced by stopping the whole process for the rest of
each period, usually 100 ms, once its threads have used up their share together. More threads than the quota
use it up sooner and then stand still for longer, which is what the slowest answers show; a core's second
hyper-thread adds next to nothing. onnxruntime and torch start one thread for each core of the host.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path, PurePosixPath

from vl2v_deploy.errors import SettingError

ROOT = Path("/")
# what each version of cgroups calls the CPU time that a group may use in each period, in microseconds
QUOTA_V1, PERIOD_V1, MAX_V2 = "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"
# number:controllers:path; no controllers = version 2
GROUP = re.compile(r"^\d+:([^:\n]*):(.+)$", re.MULTILINE)
# number, parent, device, group at the top, place, options - type, source, options of the hierarchy
MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)$", re.MULTILINE)
# onnxruntime's own variable, for sessions that are not given a number; 0 = one for each physical core
VARIABLE = "ORT_INTRA_OP_NUM_THREADS"


@dataclass(frozen=True)
class CpuQuota:
    """CPU time that this process and those of its group may use together.

    cpus:   seconds of it in a second; 0.5 = half a CPU
    source: the file that says so
    """

    cpus: float
    source: Path


@dataclass(frozen=True)
class DefaultThreads:
    """A number of threads, and where it comes from."""

    count: int
    why: str


@cache
def default_threads() -> DefaultThreads:
    """The least of the physical cores this process may run on and its CPU quota, rounded up; read once."""
    return threads_allowed(physical_cores(), cpu_quota())


def threads_allowed(cores: int, quota: CpuQuota | None) -> DefaultThreads:
    """As many threads as there are cores, or fewer where a quota asks for it.

    >>> threads_allowed(8, CpuQuota(1.5, Path("cpu.max")))
    DefaultThreads(count=2, why='2 threads: the CPU quota is 1.5 (cpu.max)')
    >>> threads_allowed(1, None).why
    '1 thread: physical cores that this process may run on'
    """
    if quota is not None and ceil(quota.cpus) < cores:
        count, reason = max(1, ceil(quota.cpus)), f"the CPU quota is {quota.cpus:g} ({quota.source})"
    else:
        count, reason = cores, "physical cores that this process may run on"
    return DefaultThreads(count, f"{_threads(count)}: {reason}")


def session_threads() -> tuple[int | None, str]:
    """Threads of an onnxruntime session that was not given a number, and where the number comes from.

    None = onnxruntime's own choice: on other systems than Linux, whose cores it knows and which have no
    control groups.

    Raises SettingError when ORT_INTRA_OP_NUM_THREADS is no number.
    """
    if text := os.environ.get(VARIABLE):
        if not text.isdecimal():
            raise SettingError(
                f"{VARIABLE}={text}: expected a whole number; 0 = one for each physical core; or unset it"
            )
        count = int(text) or physical_cores()
        return count, f"{_threads(count)}: {VARIABLE} is {text}"
    if sys.platform != "linux":
        return None, "threads: onnxruntime's own choice"
    default = default_threads()
    return default.count, default.why


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the logical CPUs that this process may run on; all where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def physical_cores(root: Path = ROOT) -> int:
    """Physical cores among the CPUs this process may run on; at least 1.

    Two hyper-threads of one core share its arithmetic units: a thread on each makes inference slower. Where
    the system does not say which belong together (other systems than Linux), each CPU counts as a core.
    """
    siblings = set()
    for cpu in usable_cpus():
        path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.add(_text(path) or str(cpu))
    return len(siblings)


def cpu_quota(root: Path = ROOT) -> CpuQuota | None:
    """The smallest quota of this process's cgroup and of those around it; None without one.

    Control groups of version 1 and 2, as far up as this process can see: a container sees its own only.
    """
    quotas = (_quota_of(group) for group in cpu_groups(root))
    return min(filter(None, quotas), key=lambda quota: quota.cpus, default=None)


def cpu_groups(root: Path = ROOT) -> Iterator[Path]:
    """Folders of the groups that may limit this process's CPU time, each before the one around it.

    /proc/self/cgroup names the groups, one line for each hierarchy; /proc/self/mountinfo says where a
    hierarchy can be seen, and which group is at its top there.
    """
    path_of = {}
    for controllers, path in GROUP.findall(_text(root / "proc/self/cgroup")):
        if not controllers:
            path_of["cgroup2"] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            path_of["cgroup"] = PurePosixPath(path)
    for top, place, system, options in MOUNT.findall(_text(root / "proc/self/mountinfo")):
        if system not in path_of or (system == "cgroup" and "cpu" not in options.split(",")):
            continue
        path, folder = path_of[system], root / _unescaped(place).lstrip("/")
        # a container may see the host's name of its group: then what it sees at the top is its own
        within = path.is_relative_to(_unescaped(top)) and ".." not in path.parts
        inner = path.relative_to(_unescaped(top)).parts if within else ()
        for depth in range(len(inner), -1, -1):
            yield folder.joinpath(*inner[:depth])


def _quota_of(group: Path) -> CpuQuota | None:
    """The quota of one group; None where it has none ("max" in version 2, -1 in version 1)."""
    for file, text in (
        (group / MAX_V2, _text(group / MAX_V2)),
        (group / QUOTA_V1, f"{_text(group / QUOTA_V1)} {_text(group / PERIOD_V1)}"),
    ):
        quota, _, period = text.strip().partition(" ")
        if quota.strip().isdecimal() and period.strip().isdecimal() and int(period):
            return CpuQuota(int(quota) / int(period), file)
    return None


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _text(file: Path) -> str:
    """What a file of the kernel says; nothing where there is none or it may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    r"""A path of mountinfo, where blanks are written as octal numbers.

    >>> _unescaped(r"/sys/fs/my\040groups")
    '/sys/fs/my groups'
    """
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
