"""Images within tar archives, such as those of webdataset: found by their headers, read where they lie."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vl2v_deploy.bulk.images import Image
from vl2v_deploy.client.images import begins_as_image
from vl2v_deploy.data.files import IMAGE_SUFFIXES, is_hidden
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown
from vl2v_deploy.regular_files import open_regular

TAR = ".tar"
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def members_of(path: Path) -> Iterator[Image]:
    """The images in an archive, in its order, by the rule for files; its links are left out.

    Raises DataError for an archive that is damaged.
    """
    with open_regular(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if _is_image(archive, member):
                        yield Image(str(path), member.name, member.offset_data, member.size)
        except tarfile.TarError as error:
            raise DataError(
                f"{shown(path)}: is no tar archive, or damaged at byte {file.tell()}: {error}"
            ) from error


def _is_image(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    if not member.isreg() or member.issparse() or any(map(is_hidden, _parts(member.name))):
        return False
    if member.name.lower().endswith(IMAGE_SUFFIXES):
        return True
    content = archive.extractfile(member)
    return content is not None and begins_as_image(content)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(name).parts if part not in (".", ".."))
