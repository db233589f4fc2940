"""The processor's features and what they mean for int8; what decides how many threads compute, and how."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from vl2v_deploy.doctor.findings import Finding
from vl2v_deploy.doctor.importing import OUR_IMPORTS

CPUINFO = Path("/proc/cpuinfo")
# As Linux calls them: vector units, and instructions that multiply 8-bit numbers.
FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avxvnniint8", "amx_tile", "amx_int8"),
    *("asimddp", "i8mm", "sve"),
)
BUSY = 1.0  # load of the last minute for each CPU, from which on threads wait for each other
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def check_processor() -> Iterator[Finding]:
    """Vector and int8 instructions, and what int8 gains with them in onnxruntime."""
    with OUR_IMPORTS:
        from vl2v_deploy.client.cpu import FASTER_IN_INT8, int8_instruction, may_saturate_int8

    text = _text(CPUINFO)
    has = features_in(text)
    instruction, saturates = int8_instruction(), may_saturate_int8()
    facts = {"model": _model(text), "features": has, "int8": instruction, "may_saturate": saturates}
    if sys.platform != "linux":
        yield Finding(
            "processor", "unknown", f"{platform.machine()}: {sys.platform} does not list all features"
        )
    else:
        yield Finding("processor", "ok", f"{_model(text)}: {', '.join(has) or 'no known feature'}", "", facts)
    if instruction is None:
        yield Finding(
            "int8",
            "note",
            "no instruction of this processor is known to make int8 faster: precision auto takes fp32",
            "",
            facts,
        )
        return
    figures = FASTER_IN_INT8[instruction]
    if figures is None:
        gain = "how much was not measured"
    else:
        gain = f"{min(figures):.1f} to {max(figures):.1f} times as fast as fp32 where it was measured"
    careful = ""
    if saturates:
        careful = (
            ". Without VNNI sums of 8-bit products may saturate: precision auto takes int8 only from bundles "
            "whose weights are proven to keep them within 16 bits"
        )
    yield Finding("int8", "ok", f"int8 is faster with this processor's {instruction}: {gain}{careful}")


def check_threads() -> Iterator[Finding]:
    """How many threads compute, and variables that change how they wait."""
    with OUR_IMPORTS:
        from vl2v_deploy.client.threads import session_threads
    from vl2v_deploy.errors import SettingError

    try:
        count, why = session_threads()
    except SettingError as error:
        yield Finding("threads", "broken", str(error), "correct or unset it")
        return
    yield Finding("threads", "ok", f"a student computes with {why}", "", {"threads": count})
    cpus, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    yield from spinning(cpus, load, os.environ, has_torch=find_spec("torch") is not None)


def spinning(cpus: int, load: float, environment: Mapping[str, str], *, has_torch: bool) -> Iterator[Finding]:
    """A warning where torch's OpenMP threads spin on a busy machine, and take time from those that work."""
    missing = {name: value for name, value in _PASSIVE.items() if environment.get(name, "").upper() != value}
    if has_torch and missing and load >= BUSY * cpus:
        settings = " ".join(f"{name}={value}" for name, value in missing.items())
        yield Finding(
            "threads",
            "warning",
            f"the machine is busy (load {load:.1f} on {cpus} CPUs), and torch's OpenMP threads spin while "
            "they wait: everything that computes is slower",
            f"start commands with {settings}",
            {"load": round(load, 2), "cpus": cpus},
        )


def features_in(cpuinfo: str) -> list[str]:
    """Those of FEATURES that the first processor of a /proc/cpuinfo has.

    >>> features_in("processor : 0\\nflags : fpu avx2 amx_int8 avx512_vnni")
    ['avx2', 'avx512_vnni', 'amx_int8']
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return [name for name in FEATURES if name in flags]


def _model(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
