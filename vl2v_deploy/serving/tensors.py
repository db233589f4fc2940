"""Tensors of KServe v2 requests and answers, in JSON and in the binary tensor extension.

A binary body is the JSON, as long as the header Inference-Header-Content-Length says, and after it the raw
little-endian tensors in the order in which the JSON names them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from vl2v_deploy.client.images import Pixels
from vl2v_deploy.serving.inputs import Refused

JSON_LENGTH = "Inference-Header-Content-Length"
EMBEDDINGS = "embeddings"


class InputTensor(BaseModel):
    """`images` as encoded files (BYTES [B]) or pixels (UINT8 [B, H, W, 3]), or `texts` (BYTES [B])."""

    name: Literal["images", "texts"]
    datatype: Literal["BYTES", "UINT8"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=4)]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputTensor(BaseModel):
    """What is asked for."""

    name: Literal["embeddings"]
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The JSON of POST /v2/models/{model}/infer."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[OutputTensor] = []
    parameters: dict[str, Any] = {}

    @property
    def wants_binary(self) -> bool:
        """Whether the embeddings are to come as raw bytes."""
        return self.parameters.get("binary_data_output") is True or any(
            output.parameters.get("binary_data") is True for output in self.outputs
        )


def read_request(body: bytes, json_length: str | None) -> tuple[InferRequest, bytes | None]:
    """The request, and its input's raw bytes; None where the data is in the JSON.

    json_length: the header of that name

    Raises Refused.
    """
    if json_length is not None and not (json_length.isdecimal() and int(json_length) <= len(body)):
        raise Refused(400, f"{JSON_LENGTH}: {json_length!r}, of a body of {len(body)} bytes")
    split = len(body) if json_length is None else int(json_length)
    try:
        request = InferRequest.model_validate_json(body[:split])
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error
    [tensor] = request.inputs
    size = tensor.parameters.get("binary_data_size")
    raw = body[split:]
    if (size is None) == (tensor.data is None):
        raise Refused(400, f"inputs.0: {tensor.name}: expected either data or parameters.binary_data_size")
    if len(raw) != (size or 0):
        raise Refused(400, f"inputs.0: binary_data_size is {size}, {len(raw)} bytes follow the JSON")
    return request, None if size is None else raw


def pixels_from_tensor(tensor: InputTensor, raw: bytes | None) -> Pixels:
    """UINT8 [B, H, W, 3]; raises Refused."""
    if len(tensor.shape) != 4 or tensor.shape[3] != 3:
        raise Refused(400, f"images: expected UINT8 [B, H, W, 3], got {tensor.shape}")
    if raw is None:
        try:
            flat = np.array(tensor.data).ravel()
        except ValueError as error:
            raise Refused(400, "images: data is a list of lists of different lengths") from error
        if flat.size and (flat.dtype.kind != "i" or flat.min() < 0 or flat.max() > 255):
            raise Refused(400, "images: data: expected whole numbers from 0 to 255")
        flat = flat.astype(np.uint8)
    else:
        flat = np.frombuffer(raw, np.uint8)
    if flat.size != math.prod(tensor.shape):
        raise Refused(400, f"images: shape {tensor.shape}, but {flat.size} elements")
    return flat.reshape(tensor.shape)


def elements_of_tensor(tensor: InputTensor, raw: bytes | None) -> list[bytes]:
    """BYTES [B] or [B, 1]; raises Refused."""
    if raw is None:
        elements = [_json_element(tensor.name, element) for element in tensor.data or []]
    else:
        elements = list(_split(tensor.name, raw))
    if tensor.shape not in ([len(elements)], [len(elements), 1]):
        raise Refused(400, f"{tensor.name}: shape {tensor.shape}, but {len(elements)} elements")
    return elements


def _json_element(name: str, element: Any) -> bytes:
    if isinstance(element, list) and len(element) == 1:
        [element] = element
    if not isinstance(element, str):
        raise Refused(400, f"{name}: data: expected strings, got {type(element).__name__}")
    if name == "images":
        raise Refused(400, "images: JSON holds no encoded files: send a binary tensor, or UINT8 pixels")
    return element.encode()


def _split(name: str, raw: bytes) -> Iterator[bytes]:
    """Each element is 4 bytes of length, then so many bytes."""
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise Refused(400, f"{name}: the length of an element is cut off")
        [length] = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            raise Refused(400, f"{name}: an element of {length} bytes is cut off")
        yield raw[at - length : at]


def texts_from_elements(elements: list[bytes]) -> list[str]:
    """UTF-8; raises Refused."""
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        raise Refused(400, f"texts: not UTF-8: {error}") from error


def output_tensor(rows: npt.NDArray[np.float32], *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """The embeddings as the answer's JSON names them, and the raw bytes that follow it."""
    described: dict[str, Any] = {"name": EMBEDDINGS, "datatype": "FP32", "shape": list(rows.shape)}
    if binary:
        raw = rows.tobytes()
        return described | {"parameters": {"binary_data_size": len(raw)}}, raw
    return described | {"data": rows.ravel().tolist()}, b""
