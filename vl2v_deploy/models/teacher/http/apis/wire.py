"""What an adapter does: it writes requests and reads answers of one API. It sends nothing itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

# The parsed JSON that a GET of this path below the base URL answers; costs nothing.
Get = Callable[[str], Any]
JSON = "application/json"


ImageFormat = Literal["png", "jpeg", "webp-lossless", "pixels"]


class SentImage(Protocol):
    """What is sent of an image; see recipe.SentImageRecipe."""

    @property
    def size_px(self) -> int: ...
    @property
    def format(self) -> ImageFormat: ...
    @property
    def quality(self) -> int | None: ...


class ApiSettings(Protocol):
    """Which model is asked, where and how; see recipe.HttpRecipe, which is one of them."""

    @property
    def api(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def text_model(self) -> str | None: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def image(self) -> SentImage: ...


class EncodedImage(NamedTuple):
    """An image as it is sent.

    content: the encoded file; with format pixels the bytes of uint8 (S, S, 3)
    mime:    of the encoded file; '' for pixels
    """

    content: bytes
    mime: str

    @property
    def base64(self) -> str:
        return base64.b64encode(self.content).decode()

    @property
    def data_url(self) -> str:
        return f"data:{self.mime};base64,{self.base64}"


class Request(NamedTuple):
    """A POST below the base URL."""

    path: str
    content: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = {}


@dataclass(frozen=True)
class Body:
    """An answer with status 200, as it came; header names are in lower case. Its `repr` shows none of it."""

    content: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Rows:
    """What an answer holds.

    embeddings: one for each item, of any norm, in the order of the answer
    index:      which item each is of; None where the API does not say
    version:    of the model, as the answer names it
    billed:     images or texts that the answer says it charges; None where it does not
    """

    embeddings: Sequence[Any]
    index: Sequence[int] | None = None
    version: str | None = field(default=None, repr=False)
    billed: int | None = field(default=None, kw_only=True)


class Wire(Protocol):
    """One API. `read` may raise any of KeyError, IndexError, TypeError, ValueError for what is no answer.

    indexed:    whether answers say which item an embedding is of
    key_header: name of the header with the key, and what stands before the key
    least_px:   smallest side of an image that is taken
    mode:       settings beside the recipe's that change an answer; part of the teacher's identity
    """

    @property
    def indexed(self) -> bool: ...
    @property
    def key_header(self) -> tuple[str, str]: ...
    @property
    def least_px(self) -> int: ...
    @property
    def mode(self) -> Mapping[str, Any]: ...

    def images(self, images: Sequence[EncodedImage]) -> Request: ...
    def texts(self, texts: Sequence[str]) -> Request: ...
    def read(self, body: Body) -> Rows: ...


BEARER = ("Authorization", "Bearer ")


def json_request(path: str, tree: Any) -> Request:
    """A POST of JSON."""
    return Request(path, json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode())


def versioned(url: str, version: str, path: str) -> str:
    """`path` below the base URL, with the API's version before it unless the URL ends with that.

    >>> versioned("https://api.example.com", "v1", "embeddings")
    '/v1/embeddings'
    >>> versioned("https://api.example.com/v1/", "v1", "embeddings")
    '/embeddings'
    """
    return f"/{path}" if url.rstrip("/").endswith(f"/{version}") else f"/{version}/{path}"


def openai_rows(body: Body) -> Rows:
    """The answer that OpenAI's embeddings API made common: data[].index, data[].embedding, model.

    A `system_fingerprint`, where there is one, tells more than the model's name: it changes with the weights.
    """
    tree = body.json()
    found = [(item["index"], _numbers(item["embedding"])) for item in tree["data"]]
    version = tree.get("system_fingerprint") or tree.get("model")
    return Rows([row for _, row in found], [index for index, _ in found], version)


def _numbers(embedding: Any) -> Any:
    """A list of numbers as it is; base64 of little-endian float32 decoded."""
    if not isinstance(embedding, str):
        return embedding
    return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
