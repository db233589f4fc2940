"""What the disk refuses: an error in one line that names the place, before a teacher is asked for more."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vl2v_deploy.data.cache import is_read_only
from vl2v_deploy.errors import ModelError, one_line

# What flock(2) says of a file system that has no locks, as some network mounts.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class DiskRefusal(ModelError):
    """The store cannot be written: its disk is full, failing or read-only, or has no locks."""


@contextmanager
def on_disk(place: Path) -> Iterator[None]:
    """DiskRefusal for what the system refuses inside the block, which must not ask a teacher."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter of older versions of filelock: no flock
        raise refused(place, error) from error


def refused(place: Path, error: OSError | NotImplementedError) -> DiskRefusal:
    """The error to raise where writing at `place` failed."""
    code = error.errno if isinstance(error, OSError) else errno.ENOSYS
    if code in _NO_LOCKS:
        advice = "The file system has no locks (flock), by which processes share what is bought: set"
    elif is_read_only(error):
        advice = "The place is read-only, and does not hold all that is needed: permit writing there, or set"
    else:
        advice = "Make room there, or set"
    return DiskRefusal(
        f"{place}: answers of the teacher cannot be kept ({one_line(error)}), so no more is asked; what was "
        f"answered before is kept. {advice} VL2V_DEPLOY_CACHE to another folder, and run again"
    )
