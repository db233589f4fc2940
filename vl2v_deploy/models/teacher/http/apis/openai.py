"""OpenAI-style embeddings with `modality`, as infinity-emb and `vl2v-deploy teacher serve` speak them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vl2v_deploy.models.teacher.http.apis.wire import (
    BEARER,
    ApiSettings,
    Body,
    EncodedImage,
    Request,
    Rows,
    json_request,
    openai_rows,
)


@dataclass(frozen=True)
class OpenAI:
    """{base}/embeddings; images are data URLs, embeddings come as base64 of float32."""

    recipe: ApiSettings
    indexed = True
    key_header = BEARER
    least_px = 3
    mode: ClassVar[Mapping[str, Any]] = {}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        return self._request([image.data_url for image in images], "image")

    def texts(self, texts: Sequence[str]) -> Request:
        return self._request(list(texts), "text")

    def _request(self, inputs: list[str], modality: str) -> Request:
        tree = {"model": self.recipe.model, "input": inputs, "modality": modality}
        return json_request("/embeddings", tree | {"encoding_format": "base64"})

    def read(self, body: Body) -> Rows:
        return openai_rows(body)
