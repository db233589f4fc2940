"""Small pictures inside the page, as data URLs of WebP files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vl2v_deploy.bars import tracked
from vl2v_deploy.bulk.images import Image, source_of
from vl2v_deploy.client.images import Limits
from vl2v_deploy.client.preprocess import open_rgb

QUALITY = 72  # of WebP; a picture of 128 px is then 2 to 4 kB


class Thumbnail(NamedTuple):
    """A picture, with its size in pixels."""

    url: str
    width: int
    height: int


def thumbnails(
    rows: Iterable[int], images: tuple[Image, ...], limits: Limits, side_px: int, description: str
) -> dict[int, Thumbnail]:
    """The pictures of some rows, as they are and not as the student's square; the longer side is `side_px`.

    Raises ImageError for an image that was changed since the student looked at it.
    """
    distinct = sorted(set(rows))

    def made(row: int) -> Thumbnail:
        return _thumbnail(images[row], limits, side_px)

    with ThreadPoolExecutor() as pool:
        found = tracked(pool.map(made, distinct), description, total=len(distinct))
        return dict(zip(distinct, found, strict=True))


def _thumbnail(image: Image, limits: Limits, side_px: int) -> Thumbnail:
    picture = open_rgb(source_of(image, limits), limits, least_px=2 * side_px)
    picture.thumbnail((side_px, side_px))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=4)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{encoded}", picture.width, picture.height)
