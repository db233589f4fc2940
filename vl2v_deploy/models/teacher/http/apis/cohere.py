"""Cohere's embed API, version 2: embed-v4.0."""

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
    versioned,
)

MOST_ITEMS = 96  # of a request


@dataclass(frozen=True)
class Cohere:
    """{base}/v2/embed; texts are embedded as input_type classification. Answers come in order, unnumbered."""

    recipe: ApiSettings
    indexed = False
    key_header = BEARER
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {"input_type": ("image", "classification")}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        return self._request({"images": [image.data_url for image in images], "input_type": "image"})

    def texts(self, texts: Sequence[str]) -> Request:
        return self._request({"texts": list(texts), "input_type": "classification"})

    def _request(self, inputs: dict[str, Any]) -> Request:
        tree = {"model": self.recipe.model, **inputs, "embedding_types": ["float"]}
        path = versioned(self.recipe.url, "v2", "embed")
        return json_request(path, tree | {"output_dimension": self.recipe.dimensions})

    def read(self, body: Body) -> Rows:
        tree = body.json()
        units = (tree.get("meta") or {}).get("billed_units") or {}
        billed = units.get("images")  # of texts it counts tokens
        if not isinstance(billed, int | float) or not 1 <= billed <= MOST_ITEMS:
            billed = None  # no number of images: what was sent is counted
        return Rows(tree["embeddings"]["float"], billed=None if billed is None else int(billed))
