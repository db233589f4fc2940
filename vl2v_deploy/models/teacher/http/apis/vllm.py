"""vLLM's embeddings of chat messages: one image or one text in a request."""

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
class Vllm:
    """{base}/v1/embeddings with `messages`."""

    recipe: ApiSettings
    indexed = True
    key_header = BEARER
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        [image] = images
        return self._request({"type": "image_url", "image_url": {"url": image.data_url}})

    def texts(self, texts: Sequence[str]) -> Request:
        [text] = texts
        return self._request({"type": "text", "text": text})

    def _request(self, part: dict[str, Any]) -> Request:
        messages = [{"role": "user", "content": [part]}]
        path = versioned(self.recipe.url, "v1", "embeddings")
        return json_request(path, {"model": self.recipe.model, "messages": messages})

    def read(self, body: Body) -> Rows:
        return openai_rows(body)
