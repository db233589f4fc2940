"""Amazon Titan Multimodal Embeddings on Bedrock, with a Bedrock API key (not SigV4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from vl2v_deploy.models.teacher.http.apis.wire import (
    BEARER,
    ApiSettings,
    Body,
    EncodedImage,
    Request,
    Rows,
    json_request,
)


@dataclass(frozen=True)
class Titan:
    """{base}/model/{model}/invoke; one image, as bare base64, or one text."""

    recipe: ApiSettings
    indexed = False
    key_header = BEARER
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        [image] = images
        return self._request({"inputImage": image.base64})

    def texts(self, texts: Sequence[str]) -> Request:
        [text] = texts
        return self._request({"inputText": text})

    def _request(self, item: dict[str, str]) -> Request:
        config = {"outputEmbeddingLength": self.recipe.dimensions}
        path = f"/model/{quote(self.recipe.model, safe='')}/invoke"
        return json_request(path, {**item, "embeddingConfig": config})

    def read(self, body: Body) -> Rows:
        return Rows([body.json()["embedding"]])
