"""Images within tar archives, such as those of webdataset: found by their headers, read where they lie."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from vl2v_deploy.bulk.images import Image
from vl2v_deploy.client.images import begins_as_image
from vl2v_deploy.data.files import IMAGE_SUFFIXES
from vl2v_deploy.data.packed.members import each_member


def members_of(path: Path) -> Iterator[Image]:
    """The images in an archive, in its order, by the rule for files; its links are left out.

    Raises DataError for an archive that is damaged.
    """
    for archive, member in each_member(path):
        if _is_image(archive, member):
            yield Image(str(path), member.name, member.offset_data, member.size)


def _is_image(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    if member.name.lower().endswith(IMAGE_SUFFIXES):
        return True
    content = archive.extractfile(member)
    return content is not None and begins_as_image(content)
