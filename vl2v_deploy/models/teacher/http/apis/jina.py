"""Jina AI's embeddings API: jina-clip-v2, jina-embeddings-v4."""

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
    versioned,
)


@dataclass(frozen=True)
class Jina:
    """{base}/v1/embeddings; images are bare base64. No `task`, which would steer texts away from images."""

    recipe: ApiSettings
    indexed = True
    key_header = BEARER
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {"normalized": True}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        return self._request([{"image": image.base64} for image in images])

    def texts(self, texts: Sequence[str]) -> Request:
        return self._request([{"text": text} for text in texts])

    def _request(self, inputs: list[dict[str, str]]) -> Request:
        tree = {"model": self.recipe.model, "input": inputs, "normalized": True}
        path = versioned(self.recipe.url, "v1", "embeddings")
        return json_request(path, tree | {"dimensions": self.recipe.dimensions})

    def read(self, body: Body) -> Rows:
        return openai_rows(body)
