"""Kernel times that TensorRT measured, kept between builds: the next build is a fraction of the first."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from vl2v_deploy.client.passport import TimingCache
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.exporting.tensorrt.passport import Here


def timing_cache_path(machine: Here) -> Path:
    """The file of one library version on one model of GPU: times of another are of no use, and refused."""
    parts = (machine.flavour, machine.version, f"sm{machine.compute_capability}", machine.gpu)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, parts))).lower()
    return cache_dir() / "timing" / f"{name}.cache"


def attach_timing_cache(config: Any, path: Path) -> TimingCache:
    """Give the builder the times on file, or an empty cache; returns what the passport says of it."""
    held = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(held)
    fits = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    if not fits:  # damaged, or of another driver: it would be refused at every build, so a new one is started
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    note = None if fits or not held else "the file did not fit this machine; a new one was started"
    return TimingCache(path.name, note, loaded_bytes=len(held) if fits else 0)


def save_timing_cache(config: Any, path: Path) -> int:
    """Write the builder's times to the file, whole or not at all; returns the bytes written."""
    times = bytes(memoryview(config.get_timing_cache().serialize()))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(times)
    partial.replace(path)
    return len(times)
