"""Whether this processor is faster in int8 than in fp32, and whether it may saturate int8 sums."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
VNNI = ("avx512_vnni", "avx_vnni", "avxvnniint8")
# Instructions as Linux calls them, and int8's speed with them in onnxruntime as a multiple of fp32's: a CNN
# at batch 1 and 8, a ViT at batch 1 and 8 (EfficientNet-Lite0 at 96 px, ViT-Tiny at 224 px, one thread of an
# EPYC, onnxruntime 1.32; the ViT's for "avx2" are those of onnxruntime's AVX2 kernels on a newer processor).
# None: not measured; Arm's dot products do as much in an instruction as VNNI does.
FASTER_IN_INT8: dict[str, tuple[float, float, float, float] | None] = {
    "avx512_vnni": (1.47, 1.57, 2.03, 1.99),
    "avx_vnni": None,
    "avxvnniint8": None,
    "asimddp": None,
    "i8mm": None,
    "avx2": (1.41, 1.24, 1.44, 1.42),
}
_X86 = ("x86_64", "amd64", "i386", "i686", "x86")
# IsProcessorFeaturePresent: Windows has no such flag for VNNI
_WINDOWS_ARM_DOT_PRODUCT, _WINDOWS_AVX2 = 43, 40


@cache
def int8_instruction() -> str | None:
    """The instruction of this processor with which int8 is faster; None where it has none or does not say.

    Read from /proc/cpuinfo on Linux; every 64-bit Arm Mac has one; Windows has flags for Arm's and for AVX2.
    """
    if sys.platform == "darwin":
        return "asimddp" if platform.machine() == "arm64" else None
    if sys.platform == "win32":
        import ctypes

        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        if has(_WINDOWS_ARM_DOT_PRODUCT):
            return "asimddp"
        return "avx2" if has(_WINDOWS_AVX2) else None
    try:
        text = CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return instruction_in(text)


def may_saturate_int8() -> bool:
    """Whether this processor may saturate sums of 8-bit products: an x86 one not known to have VNNI."""
    return platform.machine().lower() in _X86 and int8_instruction() not in VNNI


def instruction_in(cpuinfo: str) -> str | None:
    """The first of FASTER_IN_INT8 that the first processor of a /proc/cpuinfo has.

    >>> instruction_in("processor : 0\\nflags : fpu sse avx512_vnni avx_vnni")
    'avx512_vnni'
    >>> instruction_in("processor : 0\\nflags : fpu sse avx2")
    'avx2'
    >>> instruction_in("processor : 0\\nFeatures : fp asimd")
    """
    for line in cpuinfo.splitlines():
        field, _, value = line.partition(":")
        if field.strip() in ("flags", "Features"):
            flags = set(value.split())
            return next((name for name in FASTER_IN_INT8 if name in flags), None)
    return None
