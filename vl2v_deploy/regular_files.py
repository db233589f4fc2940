"""Files that somebody else names are opened here: regular ones only.

Opening a named pipe waits for its writer, a device may never end or do something when it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


class LinkOutError(PermissionError):
    """A file leads out of the folder that it must stay in."""


def open_regular(path: str | Path, *, inside: Path | None = None) -> BufferedReader:
    """A regular file, or what links lead to, opened for reading its bytes.

    inside: a folder that links must not lead out of; None = they may lead anywhere

    Raises OSError, whose strerror says why: it is not there, a directory, no regular file, links go round in
    a circle; LinkOutError where they lead out of the folder; ValueError for a name with a NUL.
    """
    found = Path(path)
    if inside is not None:
        found = Path(os.path.realpath(path, strict=True))
        if not found.is_relative_to(os.path.realpath(inside)):
            raise LinkOutError(errno.EPERM, f"is a link out of {inside}", str(path))
    _require_regular(found.stat().st_mode, path)  # before it is opened, which is enough for some devices
    file = os.open(found, _FLAGS)
    try:
        _require_regular(os.fstat(file).st_mode, path)  # it may have been exchanged in between
    except OSError:
        os.close(file)
        raise
    return os.fdopen(file, "rb")


def read_regular(path: str | Path) -> bytes:
    """The bytes of a regular file, which are those it had when it was opened: it may be growing.

    Raises what `open_regular` raises.
    """
    with open_regular(path) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """The text of a regular file, its line ends as Python's.

    Raises what `open_regular` raises, and UnicodeDecodeError.
    """
    text = read_regular(path).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _require_regular(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
