"""One image of many: what its row is called, and where its bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vl2v_deploy.client.images import Limits
from vl2v_deploy.errors import ImageError
from vl2v_deploy.names import shown
from vl2v_deploy.regular_files import open_regular


class Image(NamedTuple):
    """An image file, or an image within a tar archive.

    path:   of the file, or of the archive
    member: its name in the archive; None = a file of its own
    offset: of its first byte in the archive
    length: in bytes
    """

    path: str
    member: str | None = None
    offset: int = 0
    length: int = 0

    @property
    def name(self) -> str:
        """What its row is called, as printable text.

        >>> Image("a/cat.jpg").name, Image("a.tar", "cat.jpg", 512, 9000).name
        ('a/cat.jpg', 'a.tar::cat.jpg')
        """
        return shown(self.path if self.member is None else f"{self.path}::{self.member}")


def source_of(image: Image, limits: Limits) -> Path | bytes:
    """What a Student takes: the path of a file, the encoded bytes of a member.

    Raises ImageError for a member that is too large or cannot be read.
    """
    if image.member is None:
        return Path(image.path)
    if image.length > limits.max_bytes:  # before they are in memory
        raise ImageError(
            f"{image.name}: {image.length} bytes, more than {limits.max_bytes}: refused (Limits.max_bytes)"
        )
    try:
        with open_regular(image.path) as archive:
            archive.seek(image.offset)
            encoded = archive.read(image.length)
    except OSError as error:
        raise ImageError(f"{image.name}: cannot be read: {error.strerror or error}") from error
    if len(encoded) < image.length:
        raise ImageError(f"{image.name}: is cut: the archive ends within it")
    return encoded
