"""KServe v2 (the Open Inference Protocol), as Triton speaks it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from vl2v_deploy import __version__
from vl2v_deploy.client.images import Limits
from vl2v_deploy.serving.inputs import Refused, body_of, images_from_bytes, images_from_pixels
from vl2v_deploy.serving.service import Service
from vl2v_deploy.serving.tensors import (
    EMBEDDINGS,
    JSON_LENGTH,
    InputTensor,
    elements_of_tensor,
    output_tensor,
    pixels_from_tensor,
    read_request,
    texts_from_elements,
)


def kserve_router(service: Service) -> APIRouter:
    """/v2, its health, and the one model."""
    router = APIRouter(prefix="/v2")

    @router.get("")
    def server(request: Request) -> dict[str, Any]:
        service.require_key(request)
        return {"name": "vl2v-deploy", "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/health/live")
    def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @router.get("/models/{model}")
    def described(request: Request, model: str) -> dict[str, Any]:
        service.require_key(request)
        service.require_model(model)
        return _model(service)

    @router.get("/models/{model}/ready")
    def model_ready(request: Request, model: str) -> dict[str, Any]:
        service.require_key(request)
        service.require_model(model)
        return {"name": service.name, "ready": True}

    @router.post("/models/{model}/infer")
    async def infer(request: Request, model: str) -> Response:
        service.require_key(request)
        service.require_model(model)
        body = await body_of(request)
        asked, raw = await run_in_threadpool(read_request, body, request.headers.get(JSON_LENGTH))
        [tensor] = asked.inputs
        if tensor.name == "images":
            limits = service.settings.limits()
            rows = await service.embed_images(request, tensor.shape[0], lambda: _images(tensor, raw, limits))
        else:
            rows = await service.embed_texts(request, _texts(tensor, raw))
        output, raw_output = output_tensor(rows, binary=asked.wants_binary)
        answer = {"model_name": service.name, "model_version": service.version, "outputs": [output]}
        head = json.dumps(answer | ({"id": asked.id} if asked.id is not None else {})).encode()
        if not asked.wants_binary:
            return Response(head, media_type="application/json")
        return Response(
            head + raw_output, media_type="application/octet-stream", headers={JSON_LENGTH: str(len(head))}
        )

    return router


def _images(tensor: InputTensor, raw: bytes | None, limits: Limits) -> list[Image.Image]:
    if tensor.datatype == "UINT8":
        return images_from_pixels(pixels_from_tensor(tensor, raw), limits.max_pixels)
    return images_from_bytes(elements_of_tensor(tensor, raw), limits)


def _texts(tensor: InputTensor, raw: bytes | None) -> list[str]:
    if tensor.datatype != "BYTES":
        raise Refused(400, f"texts: expected BYTES, got {tensor.datatype}")
    return texts_from_elements(elements_of_tensor(tensor, raw))


def _model(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "versions": [service.version],
        "platform": "vl2v-deploy",
        "inputs": [
            {"name": "images", "datatype": "BYTES", "shape": [-1]},
            {"name": "texts", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": EMBEDDINGS, "datatype": "FP32", "shape": [-1, service.teacher.embedding_dim]},
        ],
    }
