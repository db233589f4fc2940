"""What a request asks about: decoded images and texts, and the digest by which the bill names each."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from typing import Any, Literal, NamedTuple, TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

METADATA = {"exif", "xmp", "icc_profile", "photoshop", "comment"}
M = TypeVar("M", bound=BaseModel)


class BadRequest(Exception):
    """A request that the published schema does not allow."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Item(NamedTuple):
    """One image or text.

    sha256:   see pixels_sha256 and text_sha256
    metadata: an image came with EXIF, XMP or a text chunk
    """

    kind: Literal["image", "text"]
    sha256: str
    content: Image.Image | str
    sent_bytes: int
    format: str = ""
    metadata: bool = False


class Request(NamedTuple):
    """A POST, its headers' names in lower case."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    text_trap: bool


class Query(NamedTuple):
    """What was asked, and how the answer is to be written."""

    items: list[Item]
    model: str | None = None
    dimensions: int | None = None
    encoding: str = "float"


def pixels_sha256(image: Image.Image) -> str:
    """By it the bill names an image: size and RGB pixels, however they were encoded."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


def text_sha256(text: str) -> str:
    """By it the bill names a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def parsed(schema: type[M], body: bytes) -> M:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRequest(422, f"{place}: {first['msg']} ({error.error_count()} problems)") from error


def text_item(text: str) -> Item:
    return Item("text", text_sha256(text), text, len(text.encode()))


def image_item(encoded: bytes, mime: str | None = None) -> Item:
    """An encoded image, decoded.

    mime: as the request states it; must be true
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "WEBP"))
        image.load()
    except (OSError, SyntaxError) as error:
        raise BadRequest(400, f"not a PNG, JPEG or WebP image: {error}") from error
    found = f"image/{str(image.format).lower()}"
    if mime is not None and mime != found:
        raise BadRequest(400, f"the data URL says {mime}, its bytes are {found}")
    if min(image.size) < 3:
        raise BadRequest(422, f"image of {image.size} pixels: at least 3 x 3 are needed")
    metadata = not METADATA.isdisjoint(str(key).lower() for key in image.info) or bool(
        getattr(image, "text", None)
    )
    return Item("image", pixels_sha256(image), image, len(encoded), found, metadata)


def pixel_items(pixels: Any) -> list[Item]:
    """uint8 (B, H, W, 3)."""
    images = [Image.fromarray(image) for image in pixels]
    return [Item("image", pixels_sha256(image), image, image.width * image.height * 3) for image in images]


def base64_item(text: str) -> Item:
    """A bare base64 string; a data URL is refused."""
    return image_item(_decoded(text))


def data_url_item(url: str, text_trap: bool) -> Item:
    """A whole data URL; a bare base64 string or a link is refused."""
    if text_trap:
        return text_item(url)
    match = re.fullmatch(r"data:(image/(?:png|jpeg|webp));base64,([A-Za-z0-9+/=]+)", url)
    if match is None:
        raise BadRequest(422, f"expected data:image/png|jpeg|webp;base64,..., got {url[:40]!r}")
    return image_item(_decoded(match[2]), match[1])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(422, f"not base64: {text[:40]!r}") from error
