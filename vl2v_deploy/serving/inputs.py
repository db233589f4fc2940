"""What a request holds, made safe: its body within a limit, its images decoded by the client's own rules."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Iterable
from dataclasses import replace

from fastapi import Request
from PIL import Image

from vl2v_deploy.client.images import Limits, Pixels, open_image
from vl2v_deploy.client.preprocess import open_rgb
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


async def body_of(request: Request) -> bytes:
    """The request's body, whose size BoundedBodies bounds; raises Refused for one that is compressed."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "Content-Encoding: send the body as it is, not compressed")
    return await request.body()


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


def images_from_bytes(files: Iterable[bytes], limits: Limits) -> list[Image.Image]:
    """Encoded images, decoded one after the other; upright, opaque and RGB.

    limits: pixels and deadline of all together; the file that passes them is refused by its header, before it
            is decoded, or when its time is over

    Raises Refused, with the number of the image.
    """
    images: list[Image.Image] = []
    pixels_left, began_s = limits.max_pixels, time.monotonic()
    for number, encoded in enumerate(files):
        deadline_s = limits.decode_deadline_s
        if deadline_s is not None:
            deadline_s -= time.monotonic() - began_s
        try:
            if pixels_left < 1:
                raise ImageError(f"the images of a request may have {limits.max_pixels} pixels together")
            if deadline_s is not None and deadline_s <= 0:
                raise ImageError(f"the images of a request may take {limits.decode_deadline_s:g} s together")
            left = replace(limits, max_pixels=pixels_left, decode_deadline_s=deadline_s)
            images.append(open_rgb(encoded, left))
        except ImageError as error:
            raise Refused(422, f"image {number}: {error}") from error
        pixels_left -= images[-1].width * images[-1].height
    return images


def images_from_pixels(pixels: Pixels, max_pixels: int) -> list[Image.Image]:
    """uint8 (B, H, W, 3) RGB as images; raises Refused where they have too many pixels, or none."""
    count, height, width, _ = pixels.shape
    if not 0 < count * height * width <= max_pixels:
        raise Refused(422, f"images: {pixels.shape}: expected 1 to {max_pixels} pixels together")
    return [open_image(image) for image in pixels]
