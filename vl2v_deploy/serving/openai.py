"""The OpenAI-style API, with images as infinity-emb takes them: a list of data URIs and `modality: image`."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from vl2v_deploy.serving.inputs import Refused, body_of, bytes_from_data_uri, images_from_bytes
from vl2v_deploy.serving.service import Service


class EmbeddingRequest(BaseModel):
    """The body of POST /embeddings; a field that is not known is refused, for it would be ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    input: str | Annotated[list[str], Field(min_length=1)]
    modality: Literal["text", "image"] = "text"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    @property
    def inputs(self) -> list[str]:
        """Its texts or data URIs."""
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(BaseModel):
    """One row of the answer; base64 holds little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """One for each image or text: how many tokens a teacher makes of them, it does not tell."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The answer of POST /embeddings; system_fingerprint changes whenever the model's answers could."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    system_fingerprint: str


def openai_router(service: Service) -> APIRouter:
    """/embeddings and /models, and the same below /v1."""
    router = APIRouter()

    async def embeddings(request: Request) -> Response:
        service.require_key(request)
        body = await body_of(request)
        asked = await run_in_threadpool(_parsed, body)
        service.require_model(asked.model)
        if asked.dimensions not in (None, service.teacher.embedding_dim):
            raise Refused(
                422, f"dimensions {asked.dimensions}: {service.name} has {service.teacher.embedding_dim}"
            )
        inputs = asked.inputs
        if asked.modality == "text":
            rows = await service.embed_texts(request, inputs)
        else:
            limits = service.settings.limits()
            files = (bytes_from_data_uri(uri, f"input.{number}") for number, uri in enumerate(inputs))
            rows = await service.embed_images(request, len(inputs), lambda: images_from_bytes(files, limits))
        answer = await run_in_threadpool(_answer, service, rows, asked.encoding_format)
        return Response(answer, media_type="application/json")

    def models(request: Request) -> dict[str, Any]:
        service.require_key(request)
        model = {"id": service.name, "object": "model", "owned_by": "vl2v-deploy", "created": 0}
        more = {
            "version": service.version,
            "dimensions": service.teacher.embedding_dim,
            "image_size_px": service.teacher.image_size_px,
            "logit_scale": service.teacher.logit_scale,  # for the recipes of those who ask here
        }
        return {"object": "list", "data": [model | more]}

    for prefix in ("", "/v1"):
        router.add_api_route(f"{prefix}/embeddings", embeddings, methods=["POST"])
        router.add_api_route(f"{prefix}/models", models, methods=["GET"])
    return router


def _parsed(body: bytes) -> EmbeddingRequest:
    try:
        return EmbeddingRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refused(422, f"{place or 'body'}: {first['msg']}") from error


def _answer(service: Service, rows: npt.NDArray[np.float32], encoding: str) -> str:
    data = [
        Embedding(
            index=index,
            embedding=base64.b64encode(row.tobytes()).decode() if encoding == "base64" else row.tolist(),
        )
        for index, row in enumerate(rows)
    ]
    return EmbeddingResponse(
        data=data,
        model=service.name,
        usage=Usage(prompt_tokens=len(data), total_tokens=len(data)),
        system_fingerprint=service.version,
    ).model_dump_json()
