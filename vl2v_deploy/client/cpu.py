"""Whether this processor multiplies 8-bit integers as fast as int8 models hope for."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# as Linux calls them; without one, an int8 product takes several instructions and may be slower than fp32
INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "avxvnniint8", "asimddp", "i8mm")
# IsProcessorFeaturePresent: PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; Windows tells nothing of VNNI
_WINDOWS_ARM_DOT_PRODUCT = 43


@cache
def int8_instruction() -> str | None:
    """The instruction of this processor for sums of 8-bit products; None where it has none or does not say.

    Read from /proc/cpuinfo on Linux; every 64-bit Arm Mac has one; Windows tells it on Arm only.
    """
    if sys.platform == "darwin":
        return "asimddp" if platform.machine() == "arm64" else None
    if sys.platform == "win32":
        import ctypes

        has = ctypes.windll.kernel32.IsProcessorFeaturePresent(_WINDOWS_ARM_DOT_PRODUCT)
        return "asimddp" if has else None
    try:
        text = CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return instruction_in(text)


def instruction_in(cpuinfo: str) -> str | None:
    """The first of INT8_INSTRUCTIONS that the first processor of a /proc/cpuinfo has.

    >>> instruction_in("processor : 0\\nflags : fpu sse avx512_vnni avx_vnni")
    'avx512_vnni'
    >>> instruction_in("processor : 0\\nFeatures : fp asimd")
    """
    for line in cpuinfo.splitlines():
        field, _, value = line.partition(":")
        if field.strip() in ("flags", "Features"):
            flags = set(value.split())
            return next((name for name in INT8_INSTRUCTIONS if name in flags), None)
    return None
