"""The eight APIs: how each reads a request, writes an answer and words an error."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tests.helpers.fake_vendor import kserve
from tests.helpers.fake_vendor.items import (
    BadRequest,
    Item,
    Query,
    Request,
    base64_item,
    data_url_item,
    image_item,
    parsed,
    text_item,
)
from tests.helpers.fake_vendor.schemas import (
    AzureText,
    CohereRequest,
    JinaImage,
    JinaRequest,
    OpenAIRequest,
    TitanRequest,
    VllmImage,
    VllmRequest,
    VoyageImage,
    VoyageRequest,
)


class Rows(NamedTuple):
    """An answer's embeddings, each with the index that it claims."""

    embeddings: list[np.ndarray]
    index: list[int]


class Reply(NamedTuple):
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})


class Api(NamedTuple):
    """One vendor's wire format.

    path:      below the base URL /<name>
    key:       header and prefix of the API key
    has_index: each embedding of an answer says which input it belongs to
    """

    path: str
    read: Callable[[Request], Query]
    write: Callable[[Query, Rows, str], Reply]
    error: Callable[[int, str], Any]
    key: tuple[str, str] = ("authorization", "Bearer ")
    has_index: bool = False


def read_openai(request: Request) -> Query:
    asked = parsed(OpenAIRequest, request.body)
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    if asked.modality == "text":
        items = [text_item(text) for text in inputs]
    elif len(inputs) > 32:
        raise BadRequest(422, f"input: at most 32 images, got {len(inputs)}")
    else:
        items = [data_url_item(url, request.text_trap) for url in inputs]
    return Query(items, asked.model, asked.dimensions, asked.encoding_format)


def read_jina(request: Request) -> Query:
    asked = parsed(JinaRequest, request.body)
    items = [
        text_item(one.text)
        if not isinstance(one, JinaImage)
        else text_item(one.image)
        if request.text_trap
        else base64_item(one.image)
        for one in asked.input
    ]
    return Query(items, asked.model, asked.dimensions, asked.embedding_type)


def read_vllm(request: Request) -> Query:
    asked = parsed(VllmRequest, request.body)
    [part] = asked.messages[0].content
    item = (
        data_url_item(part.image_url.url, request.text_trap)
        if isinstance(part, VllmImage)
        else text_item(part.text)
    )
    return Query([item], asked.model, asked.dimensions, asked.encoding_format)


def read_cohere(request: Request) -> Query:
    asked = parsed(CohereRequest, request.body)
    if (asked.images is None) == (asked.texts is None):
        raise BadRequest(400, "exactly one of images and texts is needed")
    if (asked.input_type == "image") != (asked.images is not None):
        raise BadRequest(400, f"input_type {asked.input_type} does not go with these inputs")
    if sum(len(url) for url in asked.images or []) > 20_000_000 * 4 / 3:
        raise BadRequest(400, "images: at most 20 MB together")
    items = [data_url_item(url, request.text_trap) for url in asked.images or []]
    items += [text_item(text) for text in asked.texts or []]
    return Query(items, asked.model, asked.output_dimension)


def read_voyage(request: Request) -> Query:
    asked = parsed(VoyageRequest, request.body)
    parts = [one.content[0] for one in asked.inputs]
    items = [
        data_url_item(part.image_base64, request.text_trap)
        if isinstance(part, VoyageImage)
        else text_item(part.text)
        for part in parts
    ]
    return Query(
        items, asked.model, asked.output_dimension, asked.encoding_format or asked.output_encoding or "float"
    )


def read_azure(request: Request) -> Query:
    if request.query.get("api-version") != ["2024-02-01"] or not request.query.get("model-version"):
        raise BadRequest(400, "api-version=2024-02-01 and model-version=... are needed in the query")
    if request.path.endswith(":vectorizeText"):
        items = [text_item(parsed(AzureText, request.body).text)]
    elif request.headers.get("content-type") != "application/octet-stream":
        raise BadRequest(415, "Content-Type: expected application/octet-stream")
    else:
        items = [image_item(request.body)]
    return Query(items, request.query["model-version"][0])


def read_titan(request: Request) -> Query:
    asked = parsed(TitanRequest, request.body)
    if (asked.inputImage is None) == (asked.inputText is None):
        raise BadRequest(400, "one of inputImage and inputText is needed; of both the average would be sold")
    items = (
        [text_item(asked.inputText)] if asked.inputText is not None else [base64_item(asked.inputImage or "")]
    )
    dimensions = asked.embeddingConfig.outputEmbeddingLength if asked.embeddingConfig else None
    return Query(items, request.path.split("/")[-2], dimensions)


def write_openai(query: Query, rows: Rows, version: str) -> Reply:
    def encoded(row: np.ndarray) -> Any:
        raw = row.astype("<f4")
        return base64.b64encode(raw.tobytes()).decode() if query.encoding == "base64" else raw.tolist()

    tokens = sum(_tokens(item) for item in query.items)
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(row)}
        for index, row in zip(rows.index, rows.embeddings, strict=True)
    ]
    return _json(
        {
            "object": "list",
            "data": data,
            "model": query.model if version == "1" else f"{query.model}@{version}",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def write_cohere(query: Query, rows: Rows, version: str) -> Reply:
    images = sum(item.kind == "image" for item in query.items)
    tokens = sum(_tokens(item) for item in query.items if item.kind == "text")
    billed = {"images": images} if images else {"input_tokens": tokens}
    return _json(
        {
            "id": "fake",
            "embeddings": {"float": [row.tolist() for row in rows.embeddings]},
            "texts": [item.content for item in query.items if item.kind == "text"],
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
        }
    )


def write_voyage(query: Query, rows: Rows, version: str) -> Reply:
    reply = json.loads(write_openai(query, rows, version).body)
    texts = sum(_tokens(item) for item in query.items if item.kind == "text")
    pixels = sum(
        item.content.width * item.content.height for item in query.items if not isinstance(item.content, str)
    )
    reply["usage"] = {"text_tokens": texts, "image_pixels": pixels, "video_pixels": 0}
    reply["usage"]["total_tokens"] = texts + pixels // 560
    return _json(reply)


def write_azure(query: Query, rows: Rows, version: str) -> Reply:
    model_version = query.model if version == "1" else version
    return _json({"modelVersion": model_version, "vector": _only(rows)})


def write_titan(query: Query, rows: Rows, version: str) -> Reply:
    tokens = sum(_tokens(item) for item in query.items if item.kind == "text")
    return _json({"embedding": _only(rows), "inputTextTokenCount": tokens, "message": None})


def write_kserve(query: Query, rows: Rows, version: str) -> Reply:
    return Reply(*kserve.write(query, rows.embeddings, version))


def openai_error(status: int, message: str) -> Any:
    """infinity-emb: FastAPI's own words for 401 and 422."""
    if status in (401, 422):
        return {"detail": message}
    return {"error": {"message": message, "type": None, "param": None, "code": status}}


def _tokens(item: Item) -> int:
    return 1 if not isinstance(item.content, str) else len(item.content.split()) + 2


def _only(rows: Rows) -> list[float] | None:
    return rows.embeddings[0].tolist() if rows.embeddings else None


def _json(content: Any) -> Reply:
    return Reply(json.dumps(content).encode())


APIS = {
    "openai": Api(r"(/v1)?/embeddings", read_openai, write_openai, openai_error, has_index=True),
    "vllm": Api(r"(/v1)?/embeddings", read_vllm, write_openai, openai_error, has_index=True),
    "jina": Api(r"(/v1)?/embeddings", read_jina, write_openai, lambda _, m: {"detail": m}, has_index=True),
    "cohere": Api(r"(/v2)?/embed", read_cohere, write_cohere, lambda _, m: {"message": m}),
    "voyage": Api(
        r"(/v1)?/multimodalembeddings", read_voyage, write_voyage, lambda _, m: {"detail": m}, has_index=True
    ),
    "kserve": Api(kserve.INFER, kserve.read, write_kserve, lambda _, m: {"error": m}),
    "azure": Api(
        r"/computervision/retrieval:vectorize(Image|Text)",
        read_azure,
        write_azure,
        lambda status, m: {"error": {"code": str(status), "message": m}},
        key=("ocp-apim-subscription-key", ""),
    ),
    "titan": Api(r"/model/[^/]+/invoke", read_titan, write_titan, lambda _, m: {"message": m}),
}


def api_of(path: str) -> tuple[str, Api] | None:
    """Name and format of the API that a path belongs to; None where there is none."""
    name, _, rest = path.removeprefix("/").partition("/")
    api = APIS.get(name)
    return (name, api) if api is not None and re.fullmatch(api.path, f"/{rest}") else None
