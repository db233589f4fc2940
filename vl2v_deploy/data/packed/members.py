"""The files of a tar archive. `predict` reads them too, so nothing of recipes is imported here."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vl2v_deploy.data.files import is_hidden
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown
from vl2v_deploy.regular_files import open_regular

TAR = ".tar"
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
Member = tuple[tarfile.TarFile, tarfile.TarInfo]


def each_member(path: Path) -> Iterator[Member]:
    """The regular files of an archive, in its order, without hidden ones; links and devices are left out.

    A member's name is never used as a path.

    Raises DataError for an archive that is compressed or damaged.
    """
    if path.name.lower().endswith(COMPRESSED):
        raise DataError(f"{shown(path)}: is compressed, and only a .tar is read: decompress it")
    with open_regular(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    hidden = any(map(is_hidden, _parts(member.name)))
                    if member.isreg() and not member.issparse() and not hidden:
                        yield archive, member
        except tarfile.TarError as error:
            raise DataError(
                f"{shown(path)}: is no tar archive, or damaged at byte {file.tell()}: {error}"
            ) from error


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(name).parts if part not in (".", ".."))
