"""What a request holds, made safe: its body within a limit, its images decoded by the client's own rules."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from fastapi import Request
from PIL import Image

from vl2v_deploy.client.images import Limits, Pixels, open_image
from vl2v_deploy.errors import ImageError

_DATA_URI = re.compile(r"data:(image/[a-z0-9.+-]+);base64,", re.IGNORECASE)


class Refused(Exception):
    """A request that is not answered with embeddings.

    status:  of HTTP
    headers: besides the usual ones
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


async def body_of(request: Request, most_bytes: int) -> bytes:
    """The request's body; never more of it in memory than is allowed, whatever its headers say.

    Raises Refused.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "Content-Encoding: send the body as it is, not compressed")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise Refused(413, f"the body is larger than {most_bytes} bytes")
    return bytes(body)


def bytes_from_data_uri(uri: str, place: str) -> bytes:
    """The file in `data:image/...;base64,...`.

    place: how an error names it

    Raises Refused for anything else: a bare base64 string, a link (nothing is ever fetched).
    """
    match = _DATA_URI.match(uri)
    if match is None:
        raise Refused(422, f"{place}: expected data:image/...;base64,..., got {uri[:30]!r}")
    try:
        return base64.b64decode(uri[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(422, f"{place}: what follows 'base64,' is not base64: {error}") from error


def images_from_bytes(files: Iterable[bytes], max_pixels: int) -> list[Image.Image]:
    """Encoded images, decoded one after the other.

    max_pixels: of all together; the file that passes it is refused by its header, before it is decoded

    Raises Refused, with the number of the image.
    """
    images: list[Image.Image] = []
    left = max_pixels
    for number, encoded in enumerate(files):
        try:
            if left < 1:
                raise ImageError(f"the images of a request may have {max_pixels} pixels together")
            images.append(open_image(encoded, Limits(max_pixels=left, max_bytes=max(1, len(encoded)))))
        except ImageError as error:
            raise Refused(422, f"image {number}: {error}") from error
        left -= images[-1].width * images[-1].height
    return images


def images_from_pixels(pixels: Pixels, max_pixels: int) -> list[Image.Image]:
    """uint8 (B, H, W, 3) RGB as images; raises Refused where they have too many pixels, or none."""
    count, height, width, _ = pixels.shape
    if not 0 < count * height * width <= max_pixels:
        raise Refused(422, f"images: {pixels.shape}: expected 1 to {max_pixels} pixels together")
    return [open_image(image) for image in pixels]
