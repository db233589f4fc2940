"""Voyage AI's multimodal embeddings API: voyage-multimodal-3, voyage-multimodal-3.5."""

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

UNASKED_DIM = 1024  # of every model; voyage-multimodal-3 knows no other, and no field to ask for it


@dataclass(frozen=True)
class Voyage:
    """{base}/v1/multimodalembeddings; without input_type, which would prepend words."""

    recipe: ApiSettings
    indexed = True
    key_header = BEARER
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {"input_type": None}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        return self._request([{"type": "image_base64", "image_base64": image.data_url} for image in images])

    def texts(self, texts: Sequence[str]) -> Request:
        return self._request([{"type": "text", "text": text} for text in texts])

    def _request(self, parts: list[dict[str, str]]) -> Request:
        inputs = [{"content": [part]} for part in parts]  # one part in each: several would be averaged
        tree: dict[str, Any] = {"model": self.recipe.model, "inputs": inputs, "input_type": None}
        if self.recipe.dimensions != UNASKED_DIM:
            tree["output_dimension"] = self.recipe.dimensions
        return json_request(versioned(self.recipe.url, "v1", "multimodalembeddings"), tree)

    def read(self, body: Body) -> Rows:
        return openai_rows(body)
