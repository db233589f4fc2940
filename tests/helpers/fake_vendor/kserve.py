"""KServe v2 as Triton speaks it: JSON, and its binary tensor extension."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np

from tests.helpers.fake_vendor.items import (
    BadRequest,
    Item,
    Query,
    Request,
    image_item,
    parsed,
    pixel_items,
    text_item,
)
from tests.helpers.fake_vendor.schemas import KServeInput, KServeRequest

INFER = r"/v2/models/[^/]+/infer"
IMAGES, TEXTS, EMBEDDINGS = "images", "texts", "embeddings"
HEADER = "inference-header-content-length"


def read(request: Request) -> Query:
    """One input tensor: images as BYTES [B] (binary only) or UINT8 [B, H, W, 3], or texts as BYTES [B]."""
    head = int(request.headers.get(HEADER, len(request.body)))
    asked = parsed(KServeRequest, request.body[:head])
    [tensor] = asked.inputs
    raw = request.body[head:]
    size = tensor.parameters.get("binary_data_size")
    if (size is None) != (tensor.data is not None) or len(raw) != (size or 0):
        raise BadRequest(400, f"{len(raw)} bytes follow the header, binary_data_size says {size}")
    for output in asked.outputs or []:
        if output.name != EMBEDDINGS:
            raise BadRequest(400, f"unexpected inference output {output.name!r}")
    wants_binary = any(output.parameters.get("binary_data") is True for output in asked.outputs or [])
    wants_binary |= asked.parameters.get("binary_data_output") is True
    model = request.path.split("/")[-2]
    return Query(_items(tensor, raw), model, encoding="binary" if wants_binary else "json")


def _items(tensor: KServeInput, raw: bytes) -> list[Item]:
    match tensor.name, tensor.datatype:
        case "images", "UINT8":
            return pixel_items(_pixels(tensor, raw))
        case "images", "BYTES":
            if tensor.data is not None:
                raise BadRequest(400, "images: BYTES must come as a binary tensor: JSON holds text only")
            return [image_item(one) for one in _elements(tensor, raw)]
        case "texts", "BYTES":
            if tensor.data is None:
                return [text_item(one.decode()) for one in _elements(tensor, raw)]
            if tensor.shape != [len(tensor.data)]:
                raise BadRequest(400, f"texts: shape {tensor.shape}, {len(tensor.data)} elements")
            return [text_item(one) for one in tensor.data]
    raise BadRequest(400, f"unexpected inference input {tensor.name!r} of {tensor.datatype}")


def _pixels(tensor: KServeInput, raw: bytes) -> np.ndarray:
    if len(tensor.shape) != 4 or tensor.shape[3] != 3:
        raise BadRequest(400, f"images: expected UINT8 [B, H, W, 3], got {tensor.shape}")
    flat = np.frombuffer(raw, np.uint8) if tensor.data is None else np.array(tensor.data, np.uint8).ravel()
    if flat.size != np.prod(tensor.shape):
        raise BadRequest(400, f"images: shape {tensor.shape}, {flat.size} elements")
    return flat.reshape(tensor.shape)


def _elements(tensor: KServeInput, raw: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise BadRequest(400, f"{tensor.name}: a length is cut off")
        [length] = struct.unpack_from("<I", raw, at)
        at += 4 + length
        found.append(raw[at - length : at])
    if at != len(raw) or tensor.shape != [len(found)]:
        raise BadRequest(
            400, f"{tensor.name}: shape {tensor.shape}, {len(found)} elements in {len(raw)} bytes"
        )
    return found


def write(query: Query, rows: list[np.ndarray], version: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer."""
    data = np.array(rows, "<f4")
    output: dict[str, Any] = {"name": EMBEDDINGS, "datatype": "FP32", "shape": list(data.shape)}
    reply = {"model_name": query.model, "model_version": version, "outputs": [output]}
    if query.encoding == "json":
        output["data"] = data.ravel().tolist()
        return json.dumps(reply).encode(), {"Content-Type": "application/json"}
    output["parameters"] = {"binary_data_size": data.nbytes}
    head = json.dumps(reply).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + data.tobytes(), headers


def described(path: str, dimensions: int, version: str) -> Any | None:
    """What a GET below /kserve answers; None where nothing is."""
    if path == "/v2":
        return {"name": "fake", "version": "1", "extensions": ["binary_tensor_data"]}
    if path in ("/v2/health/live", "/v2/health/ready") or re.fullmatch(r"/v2/models/[^/]+/ready", path):
        return {"live": True, "ready": True}
    if match := re.fullmatch(r"/v2/models/([^/]+)", path):
        inputs = [
            {"name": IMAGES, "datatype": "BYTES", "shape": [-1]},
            {"name": TEXTS, "datatype": "BYTES", "shape": [-1]},
        ]
        outputs = [{"name": EMBEDDINGS, "datatype": "FP32", "shape": [-1, dimensions]}]
        named = {"name": match[1], "versions": [version], "platform": "fake"}
        return named | {"inputs": inputs, "outputs": outputs}
    return None
