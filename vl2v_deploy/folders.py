"""Folders that are written whole or not at all: as `<out>.partial`, renamed when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vl2v_deploy.errors import RunError

OWNER = ".owner"  # process id of whoever writes a .partial folder


def start_folder(out: Path, mark: str) -> Path:
    """An empty `<out>.partial`, which `replace_folder` turns into `out`; an earlier one is removed.

    mark: a file that every folder of this kind holds from the start; a folder without it is not removed

    Raises RunError when something else is in the way, or another process is writing there.
    """
    partial = partial_of(out)
    restore_folder(out.resolve())
    if partial.exists():
        if any(partial.iterdir()) and not (partial / mark).is_file():
            raise RunError(f"{partial}: is in the way and was not made here; move it, or pass another --out")
        _require_unclaimed(partial)
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    claim_folder(partial)
    return partial


@contextmanager
def whole_folder(out: Path, mark: str) -> Iterator[Path]:
    """An empty `<out>.partial` that becomes `out` on success and is removed on failure.

    Raises what `start_folder` raises.
    """
    partial = start_folder(out, mark)
    try:
        yield partial
        replace_folder(out, partial)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def partial_of(out: Path) -> Path:
    """The folder in which `out` is written until it is complete."""
    resolved = out.resolve()
    return resolved.with_name(f"{resolved.name}.partial")


def claim_folder(partial: Path) -> None:
    """Mark `partial` as written by this process; RunError when another process is writing it."""
    _require_unclaimed(partial)
    (partial / OWNER).write_text(str(os.getpid()), encoding="utf-8")


def _require_unclaimed(partial: Path) -> None:
    if owner := _living_owner(partial):
        raise RunError(f"{partial}: process {owner} is writing it; wait for it, or pass another --out")


def restore_folder(out: Path) -> None:
    """Clean up after a process killed while replacing `out`: restore the old one, or remove its remains."""
    replaced = out.with_name(f"{out.name}.replaced")
    if replaced.exists() and not out.exists():
        replaced.rename(out)
    elif replaced.exists():
        shutil.rmtree(replaced)


def replace_folder(out: Path, finished: Path) -> None:
    """Rename `finished` to `out`; the old `out` is removed only after that, and restored if it fails."""
    (finished / OWNER).unlink(missing_ok=True)
    resolved = out.resolve()
    replaced = resolved.with_name(f"{resolved.name}.replaced")
    restore_folder(resolved)
    try:
        if resolved.exists():
            resolved.rename(replaced)
        finished.rename(resolved)
    except BaseException:
        restore_folder(resolved)
        raise
    if replaced.exists():
        shutil.rmtree(replaced)


def _living_owner(partial: Path) -> int | None:
    """The process that is writing a `.partial` folder, if it is still running on this machine."""
    try:
        owner = int((partial / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if os.name != "posix" or owner == os.getpid():  # elsewhere, os.kill(pid, 0) would end the process
        return None
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it runs, as another user
        return owner
    return owner
