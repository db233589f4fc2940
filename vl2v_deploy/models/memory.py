"""Memory of training on a processor: kept by the process, because the next step needs it again."""

from __future__ import annotations

import ctypes
import os
import platform

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
SET_BY_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Whether freed memory stays with this process from now on; no for other systems, or a user's own choice.

    torch frees an activation as soon as it can. glibc hands a big one back to the system, and the next one
    costs a page fault every 4 kB: on the virtual machine where we looked, half of the processor's time in a
    teacher's batch, and a quarter in a training step. Kept, the memory of a training process stays near its
    peak, which it would come back to at every step anyway.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in SET_BY_USER):
        return False
    libc = ctypes.CDLL(None)
    # No block of a map of its own, which is given back when freed; nothing at the heap's end is given back.
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
