"""Who has reserved what: a process lives as long as the operating system keeps the lock on its file."""

from __future__ import annotations

import uuid
from pathlib import Path

from filelock import FileLock, Timeout


def new_owner(folder: Path) -> tuple[str, FileLock]:
    """A name that no other process has, and the lock on its file, which is held."""
    owner = uuid.uuid4().hex
    lock = FileLock(folder / owner, thread_local=False)
    lock.acquire()
    return owner, lock


def is_dead(owner: Path) -> bool:
    """Whether no process holds this lock any more; its file is removed then."""
    if not owner.exists():
        return True
    try:
        with FileLock(owner, timeout=0):
            owner.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
