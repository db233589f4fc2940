"""Folders that runs fill: where they are, how large, whether they can be written, how much room is left."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.doctor.findings import Finding
from vl2v_deploy.doctor.importing import OUR_IMPORTS
from vl2v_deploy.names import shown

LEAST_FREE_BYTES = 2_000_000_000  # the weights of a ViT-L teacher take 1.7 GB
COUNT_S = 2.0  # how long a folder's size is added up


@dataclass(frozen=True)
class Size:
    """What a folder holds; not whole where there was no time to look at all of it."""

    bytes: int
    whole: bool


def check_cache() -> Iterator[Finding]:
    """The cache of this package, and the hub client's."""
    try:
        with OUR_IMPORTS:
            from vl2v_deploy.data.cache import cache_place
    except ModuleNotFoundError as error:
        yield Finding("cache", "note", f"no cache: only the extra train uses one ({error.name} is missing)")
        return
    yield folder_finding("cache", cache_place(), "set VL2V_DEPLOY_CACHE to a folder")
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return
    yield folder_finding("hub cache", Path(HF_HUB_CACHE), "set HF_HOME to a folder")


def folder_finding(check: str, folder: Path, otherwise: str) -> Finding:
    """What there is to say of a folder; nothing is left in it.

    otherwise: how to have another one
    """
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    try:
        free = shutil.disk_usage(there).free
        size = size_of(folder)
    except OSError as error:
        fix = f"{otherwise} that can be read and written"
        return Finding(check, "broken", f"{shown(folder)}: {error.strerror or error}", fix)
    facts = {"folder": shown(folder), "exists": folder.exists(), "bytes": size.bytes, "free_bytes": free}
    state = "not made yet"
    if folder.exists():
        state = f"{'' if size.whole else 'more than '}{in_words(size.bytes)}"
    what = f"{shown(folder)}: {state}, {in_words(free)} free on its disk"
    if not there.is_dir():
        return Finding(check, "broken", f"{shown(there)}: is no folder", otherwise, facts)
    if reason := _refusal(there):
        fix = f"permit writing there, or {otherwise} that can be written"
        return Finding(check, "warning", f"{what}; it cannot be written: {reason}", fix, facts)
    if free < LEAST_FREE_BYTES:
        return Finding(check, "warning", what, f"make room, or {otherwise} on another disk", facts)
    return Finding(check, "ok", what, "", facts)


def size_of(folder: Path, limit_s: float = COUNT_S) -> Size:
    """Bytes of all files below a folder, as far as they are found in so many seconds."""
    total, deadline = 0, time.monotonic() + limit_s
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except OSError:  # just removed
                continue
        if time.monotonic() > deadline:
            return Size(total, whole=False)
    return Size(total, whole=True)


def in_words(size: int) -> str:
    """A size as people read it.

    >>> in_words(0), in_words(12_345_678), in_words(59 * 10**9)
    ('0.0 MB', '12.3 MB', '59.0 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _refusal(folder: Path) -> str | None:
    """Why no file can be made in a folder; None where one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)
