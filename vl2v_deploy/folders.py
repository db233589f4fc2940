"""Folders that are written whole or not at all: as `<out>.partial`, renamed when complete.

    <out>.partial/.owner       marks the folder as ours from its first moment, locked by whoever writes it
    .<out>.<unique>.partial    a folder that becomes <out>.partial, or that is being deleted
    .<out>.<unique>.replaced   the old <out>, named in .owner, until the new one is in its place

No folder is renamed, emptied or deleted unless it has this mark, or a folder that has it names it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vl2v_deploy.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: two processes that write the same folder are not noticed there
    fcntl = None  # type: ignore[assignment]
_HAS_LOCKS = os.name == "posix"

# Its first line is the id of the process that writes the folder, which holds a lock on the file; the second,
# if any, the name of the folder that is being replaced. Before there was a lock, the line did not end.
OWNER = ".owner"
_held: dict[Path, int] = {}  # by folder, the open file whose lock this process holds


def start_folder(out: Path) -> Path:
    """An empty `<out>.partial`, which `replace_folder` turns into `out`; an earlier one is removed.

    Raises RunError when something that was not made here is in the way, or another process is writing there.
    """
    partial = partial_of(out)
    _settle(out.resolve())
    _remove_abandoned(out.resolve())
    if os.path.lexists(partial):
        claim_folder(partial)
        _discard(partial)
    made = _made_here(partial)
    try:
        made.rename(partial)
    except OSError as error:
        _discard(made)
        raise RunError(f"{partial}: another process is writing it ({error.strerror})") from error
    if made in _held:
        _held[partial] = _held.pop(made)
    return partial


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty `<out>.partial` that becomes `out` on success and is removed on failure.

    Raises what `start_folder` raises.
    """
    partial = start_folder(out)
    try:
        yield partial
        replace_folder(out, partial)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            _discard(partial)
        raise


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A folder `.<name>.<unique>.partial` beside a path, to make in it what is then moved to its place.

    It is deleted at the end. What killed processes left under such names is deleted first.
    """
    place = beside.resolve()
    _remove_abandoned(place)
    scratch = _made_here(place)
    try:
        yield scratch
    finally:
        _release(scratch)
        _delete(scratch)


def partial_of(out: Path) -> Path:
    """The folder in which `out` is written until it is complete."""
    resolved = out.resolve()
    return resolved.with_name(f"{resolved.name}.partial")


def claim_folder(folder: Path) -> None:
    """Make this process the one that writes a folder which has our mark, until it ends.

    Raises RunError for a folder without it, and when another process is writing there.
    """
    owner, mark = folder / OWNER, _mark(folder)
    if mark is None:
        raise RunError(f"{folder}: is in the way and was not made here; move it, or pass another --out")
    if folder in _held:
        if os.path.samestat(os.fstat(_held[folder]), owner.stat()):
            return
        _release(folder)
    file = os.open(owner, os.O_RDWR)
    try:
        _take(file, owner, mark)
    except BlockingIOError as error:
        os.close(file)
        raise RunError(
            f"{folder}: process {mark[0]} is writing it; wait for it, or pass another --out"
        ) from error
    if _HAS_LOCKS:
        _held[folder] = file
    else:
        os.close(file)  # it could not be renamed while it is open
    _write_mark(owner, *mark[1:2])


def replace_folder(out: Path, finished: Path) -> None:
    """Rename `finished` to `out`; the old `out` is removed only after that, and restored if it fails."""
    resolved = out.resolve()
    claim_folder(finished)
    _settle(resolved)
    replaced = _unique(resolved, "replaced")
    try:
        if resolved.exists():
            _write_mark(finished / OWNER, replaced.name)
            resolved.rename(replaced)
        finished.rename(resolved)
    except BaseException:
        if replaced.exists() and not resolved.exists():
            replaced.rename(resolved)
        raise
    if finished in _held:
        _held[resolved] = _held.pop(finished)
    _settle(resolved)


def remove_folder(folder: Path) -> None:
    """Delete a folder that has our mark.

    Raises what `claim_folder` raises.
    """
    claim_folder(folder)
    _discard(folder)


def _settle(out: Path) -> None:
    """Finish what a killed replacement left: restore the old `out`, or remove it where the new one is."""
    for folder in (partial_of(out), out):
        name = (_mark(folder) or ["", ""])[1:2]
        if not (name and re.fullmatch(re.escape(f".{out.name}.") + r"[0-9a-f]+\.replaced", name[0])):
            continue
        claim_folder(folder)
        replaced = out.with_name(name[0])
        if not out.exists() and replaced.exists():
            replaced.rename(out)
        elif folder == out and replaced.exists():
            shutil.rmtree(replaced)
    if _mark(out) is not None:
        claim_folder(out)
        (out / OWNER).unlink()
        _release(out)


def _mark(folder: Path) -> list[str] | None:
    """The lines of the folder's mark, the last one empty if it ends as it should; None = it is not ours."""
    owner = folder / OWNER
    try:
        if owner.is_symlink() or not owner.is_file():
            return None
        lines = owner.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return lines if lines[0].isascii() and lines[0].isdigit() and len(lines) <= 3 else None


def _discard(folder: Path) -> None:
    """Delete a folder of ours; killed on the way, it does not leave half of it under its name."""
    doomed = _unique(folder, "partial")
    folder.rename(doomed)
    _release(folder)  # before: network file systems keep an open file's folder
    _delete(doomed)


def _delete(doomed: Path) -> None:
    """Delete a folder, its mark last, so that what a kill leaves of it is still known to be ours."""
    for inside in doomed.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        elif inside.name != OWNER:
            inside.unlink()
    shutil.rmtree(doomed)


def _remove_abandoned(out: Path) -> None:
    """Delete folders with names of ours beside `out` that processes left which were killed."""
    name = re.compile(re.escape(f".{out.name}.") + r"[0-9a-f]{12}\.partial")
    for folder in [*out.parent.iterdir()] if out.parent.is_dir() else []:
        ours = name.fullmatch(folder.name) and not folder.is_symlink() and folder not in _held
        mark = _mark(folder) if ours else None
        if mark is None or _is_living(int(mark[0]), (folder / OWNER).stat().st_mtime):
            continue
        with suppress(RunError, OSError):  # another process does the same, or may not be disturbed
            claim_folder(folder)
            _release(folder)
            _delete(folder)


def _made_here(beside: Path) -> Path:
    """A new folder with our mark beside a path, held by this process."""
    made = _unique(beside, "partial")
    made.mkdir(parents=True)
    (made / OWNER).write_text(f"{os.getpid()}\n", encoding="utf-8")
    claim_folder(made)
    return made


def _unique(folder: Path, ending: str) -> Path:
    name = folder.name.removesuffix(".partial")
    return folder.with_name(f".{name}.{uuid.uuid4().hex[:12]}.{ending}")


def _write_mark(owner: Path, *lines: str) -> None:
    """Write the mark, without another file in its place: a lock belongs to the file."""
    with owner.open("r+", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in (os.getpid(), *lines) if line != ""))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _take(file: int, owner: Path, mark: list[str]) -> None:
    """Lock a mark; BlockingIOError when another process has it, or the folder went to another place."""
    has_locks = _HAS_LOCKS
    try:
        if has_locks:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # this file system has none
        has_locks = False
    status = owner.stat() if owner.exists() else None
    if status is None or not os.path.samestat(os.fstat(file), status):
        raise BlockingIOError
    if (not has_locks or len(mark) == 1) and _is_living(int(mark[0]), status.st_mtime):
        raise BlockingIOError


def _release(folder: Path) -> None:
    if folder in _held:
        os.close(_held.pop(folder))


def _is_living(process: int, written: float) -> bool:
    """Whether the process that wrote a mark without a lock is still running here.

    written: when the mark was; a process that began later only has the same number
    """
    if os.name != "posix" or process == os.getpid():  # elsewhere, os.kill(pid, 0) would end the process
        return False
    try:
        os.kill(process, 0)
    except (OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # it runs, as another user
        pass
    began = _began(process)
    return began is None or began <= written + 1.0


def _began(process: int) -> float | None:
    """When a process began, in seconds since 1970; None where the system does not say."""
    try:
        of_process = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(of_process.rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None


def _forget_in_child() -> None:
    """A child that was forked shares the locks: it must not hold them when its parent has ended."""
    for folder in list(_held):
        _release(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
