"""Azure AI Vision's multimodal embeddings; `model` is the model version, such as 2023-04-15."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from vl2v_deploy.models.teacher.http.apis.wire import (
    ApiSettings,
    Body,
    EncodedImage,
    Request,
    Rows,
    json_request,
)

API_VERSION = "2024-02-01"


@dataclass(frozen=True)
class Azure:
    """{endpoint}/computervision/retrieval:vectorizeImage and :vectorizeText; an image is its bare bytes."""

    recipe: ApiSettings
    indexed = False
    key_header = ("Ocp-Apim-Subscription-Key", "")
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {"api_version": API_VERSION}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        [image] = images
        return Request(self._path("Image"), image.content, "application/octet-stream")

    def texts(self, texts: Sequence[str]) -> Request:
        [text] = texts
        return json_request(self._path("Text"), {"text": text})

    def _path(self, what: str) -> str:
        versions = f"api-version={API_VERSION}&model-version={quote(self.recipe.model, safe='')}"
        return f"/computervision/retrieval:vectorize{what}?{versions}"

    def read(self, body: Body) -> Rows:
        tree = body.json()
        return Rows([tree["vector"]], version=tree["modelVersion"])
