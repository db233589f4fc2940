"""What each adapter sends, byte by byte, and what it reads."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import numpy as np
import pytest

from tests.helpers.vendor_recipes import vendor_recipe
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.teacher.http.answers import BadAnswer, read_rows
from vl2v_deploy.models.teacher.http.apis import open_api
from vl2v_deploy.models.teacher.http.apis.wire import Body, EncodedImage, Request, Wire
from vl2v_deploy.recipe import APIS

PNG = EncodedImage(b"\x89PNG one", "image/png")
JPEG = EncodedImage(b"\xff\xd8 two", "image/jpeg")
B64, B64_JPEG = base64.b64encode(PNG.content).decode(), base64.b64encode(JPEG.content).decode()
URL, URL_JPEG = f"data:image/png;base64,{B64}", f"data:image/jpeg;base64,{B64_JPEG}"
OPENAI_ANSWER = {
    "object": "list",
    "data": [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}],
    "model": "clip-7",
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}


def no_get(path: str) -> Any:
    raise AssertionError(f"GET {path}")


def wire(api: str, **more: Any) -> Wire:
    return open_api(vendor_recipe(api, **more), no_get)


def sent(request: Request) -> tuple[str, Any]:
    assert request.content_type == "application/json" and not request.headers
    return request.path, json.loads(request.content)


def body(tree: Any) -> Body:
    return Body(json.dumps(tree).encode())


@pytest.mark.parametrize(
    ("api", "images", "path", "expected"),
    [
        (
            "openai",
            [PNG, JPEG],
            "/embeddings",
            {
                "model": "clip",
                "input": [URL, URL_JPEG],
                "modality": "image",
                "encoding_format": "base64",
            },
        ),
        (
            "jina",
            [PNG, JPEG],
            "/v1/embeddings",
            {
                "model": "clip",
                "input": [{"image": B64}, {"image": B64_JPEG}],
                "normalized": True,
                "dimensions": 16,
            },
        ),
        (
            "vllm",
            [PNG],
            "/v1/embeddings",
            {
                "model": "clip",
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}],
            },
        ),
        (
            "cohere",
            [PNG, JPEG],
            "/v2/embed",
            {
                "model": "clip",
                "images": [URL, URL_JPEG],
                "input_type": "image",
                "embedding_types": ["float"],
                "output_dimension": 16,
            },
        ),
        (
            "voyage",
            [PNG, JPEG],
            "/v1/multimodalembeddings",
            {
                "model": "clip",
                "inputs": [
                    {"content": [{"type": "image_base64", "image_base64": URL}]},
                    {"content": [{"type": "image_base64", "image_base64": URL_JPEG}]},
                ],
                "input_type": None,
                "output_dimension": 16,
            },
        ),
        (
            "titan",
            [PNG],
            "/model/clip/invoke",
            {"inputImage": B64, "embeddingConfig": {"outputEmbeddingLength": 16}},
        ),
    ],
)
def test_http_request_about_images(
    api: str, images: list[EncodedImage], path: str, expected: dict[str, Any]
) -> None:
    assert sent(wire(api).images(images)) == (path, expected)


@pytest.mark.parametrize(
    ("api", "texts", "path", "expected"),
    [
        (
            "openai",
            ["ä cat", "b"],
            "/embeddings",
            {"model": "clip", "input": ["ä cat", "b"], "modality": "text", "encoding_format": "base64"},
        ),
        (
            "jina",
            ["ä cat", "b"],
            "/v1/embeddings",
            {
                "model": "clip",
                "input": [{"text": "ä cat"}, {"text": "b"}],
                "normalized": True,
                "dimensions": 16,
            },
        ),
        (
            "vllm",
            ["b"],
            "/v1/embeddings",
            {
                "model": "clip",
                "messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}],
            },
        ),
        (
            "cohere",
            ["b", "c"],
            "/v2/embed",
            {
                "model": "clip",
                "texts": ["b", "c"],
                "input_type": "classification",
                "embedding_types": ["float"],
                "output_dimension": 16,
            },
        ),
        (
            "voyage",
            ["b"],
            "/v1/multimodalembeddings",
            {
                "model": "clip",
                "inputs": [{"content": [{"type": "text", "text": "b"}]}],
                "input_type": None,
                "output_dimension": 16,
            },
        ),
        (
            "azure",
            ["b"],
            "/computervision/retrieval:vectorizeText?api-version=2024-02-01&model-version=2023-04-15",
            {"text": "b"},
        ),
        (
            "titan",
            ["b"],
            "/model/clip/invoke",
            {"inputText": "b", "embeddingConfig": {"outputEmbeddingLength": 16}},
        ),
    ],
)
def test_http_request_about_texts(api: str, texts: list[str], path: str, expected: dict[str, Any]) -> None:
    assert sent(wire(api).texts(texts)) == (path, expected)


def test_http_azure_gets_the_bare_bytes_of_an_image() -> None:
    request = wire("azure").images([PNG])
    assert request.content == PNG.content
    assert request.content_type == "application/octet-stream"
    query = "api-version=2024-02-01&model-version=2023-04-15"
    assert request.path == f"/computervision/retrieval:vectorizeImage?{query}"


def test_http_voyage_of_the_usual_dimension_is_not_asked_for_it() -> None:
    assert "output_dimension" not in sent(wire("voyage", dimensions=1024).texts(["b"]))[1]


@pytest.mark.parametrize(
    ("api", "version"), [("jina", "v1"), ("vllm", "v1"), ("cohere", "v2"), ("voyage", "v1")]
)
def test_http_version_in_the_url_is_not_doubled(api: str, version: str) -> None:
    request = wire(api, url=f"https://vendor.test/{version}/").texts(["b"])
    assert version not in request.path


@pytest.mark.parametrize(
    ("api", "answer", "rows", "index", "version", "billed"),
    [
        *(
            (api, OPENAI_ANSWER, [[3, 4], [1, 2]], [1, 0], "clip-7", None)
            for api in ("openai", "jina", "vllm")
        ),
        (
            "voyage",
            {"data": [{"index": 0, "embedding": [1, 2]}], "model": "m", "usage": {"total_tokens": 3}},
            [[1, 2]],
            [0],
            "m",
            None,
        ),
        (
            "cohere",
            {"embeddings": {"float": [[1, 2], [3, 4]]}, "meta": {"billed_units": {"images": 2}}},
            [[1, 2], [3, 4]],
            None,
            None,
            2,
        ),
        (
            "cohere",
            {"embeddings": {"float": [[1, 2]]}, "meta": {"billed_units": {"input_tokens": 7}}},
            [[1, 2]],
            None,
            None,
            None,
        ),
        *(  # what is no count of images says nothing about the bill, and the embeddings are good
            (
                "cohere",
                {"embeddings": {"float": [[1, 2]]}, "meta": {"billed_units": units}},
                [[1, 2]],
                None,
                None,
                billed,
            )
            for units, billed in (
                *(
                    (None, None),
                    ({"images": -9}, None),
                    ({"images": "1"}, None),
                    ({"images": math.nan}, None),
                ),
                *(({"images": math.inf}, None), ({"images": 0}, None), ({"images": 1.0}, 1)),
            )
        ),
        ("azure", {"modelVersion": "2023-04-15", "vector": [1, 2]}, [[1, 2]], None, "2023-04-15", None),
        ("titan", {"embedding": [1, 2], "inputTextTokenCount": 0}, [[1, 2]], None, None, None),
    ],
)
def test_http_answer(
    api: str,
    answer: Any,
    rows: list[list[int]],
    index: list[int] | None,
    version: str | None,
    billed: int | None,
) -> None:
    found = wire(api).read(body(answer))
    assert [list(row) for row in found.embeddings] == rows
    assert (found.index, found.version, found.billed) == (index, version, billed)


def test_http_answer_in_base64() -> None:
    raw = base64.b64encode(struct.pack("<2f", 1.5, -2.0)).decode()
    found = wire("openai").read(body({"data": [{"index": 0, "embedding": raw}]}))
    assert found.embeddings[0].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "content",
    [
        b"<html>Welcome</html>",
        b"",
        b"null",
        b"[]",
        b'"text"',
        b'{"data": null}',
        b'{"error": "no"}',
        b"\xff\xfe{",
    ],
)
def test_http_answer_of_no_format_is_named(api: str, content: bytes) -> None:
    with pytest.raises(BadAnswer, match="not in the API's format"):
        read_rows(wire(api), Body(content))


class Server:
    """KServe metadata of a server."""

    def __init__(
        self, datatype: str = "BYTES", shape: tuple[int, ...] = (-1, 1), binary: bool = True
    ) -> None:
        self.asked: list[str] = []
        tensors = {
            "images": [{"name": "pictures", "datatype": datatype, "shape": list(shape)}],
            "both": [
                {"name": "image_in", "datatype": datatype, "shape": list(shape)},
                {"name": "text_in", "datatype": "BYTES", "shape": [-1]},
            ],
            "words": [{"name": "prompt", "datatype": "BYTES", "shape": [-1, 1]}],
        }
        output = [{"name": "vector", "datatype": "FP32", "shape": [-1, 2]}]
        self.answers: dict[str, Any] = {
            f"/v2/models/{name}": {"inputs": inputs, "outputs": output} for name, inputs in tensors.items()
        }
        self.answers["/v2"] = {"extensions": ["binary_tensor_data"] if binary else []}

    def get(self, path: str) -> Any:
        self.asked.append(path)
        return self.answers[path]

    def wire(self, model: str, **more: Any) -> Wire:
        return open_api(vendor_recipe("kserve", model=model, **more), self.get)


def split(request: Request) -> tuple[Any, bytes]:
    head = int(request.headers["Inference-Header-Content-Length"])
    return json.loads(request.content[:head]), request.content[head:]


def test_http_kserve_bytes_in_binary() -> None:
    request = Server().wire("images").images([PNG, JPEG])
    tree, raw = split(request)
    assert request.path == "/v2/models/images/infer"
    assert tree == {
        "inputs": [
            {
                "name": "pictures",
                "datatype": "BYTES",
                "shape": [2, 1],
                "parameters": {"binary_data_size": len(raw)},
            }
        ],
        "outputs": [{"name": "vector", "parameters": {"binary_data": True}}],
    }
    lengths = [struct.pack("<I", len(image.content)) for image in (PNG, JPEG)]
    assert raw == lengths[0] + PNG.content + lengths[1] + JPEG.content


@pytest.mark.parametrize("binary", [True, False])
def test_http_kserve_pixels(binary: bool) -> None:
    server = Server("UINT8", (-1, 32, 32, 3), binary)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    images = [EncodedImage(one.tobytes(), "") for one in pixels]
    request = server.wire("both", image={"size_px": 32, "format": "pixels"}).images(images)
    tree, raw = split(request) if binary else (json.loads(request.content), b"")
    [tensor] = tree["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("image_in", "UINT8", [2, 32, 32, 3])
    data = np.frombuffer(raw, np.uint8) if binary else np.array(tensor["data"], np.uint8)
    assert np.array_equal(data.reshape(pixels.shape), pixels)


def test_http_kserve_texts_of_another_model_in_json() -> None:
    request = Server(binary=False).wire("images", text_model="words").texts(["ä", "b"])
    assert request.path == "/v2/models/words/infer"
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [2, 1], "data": ["ä", "b"]}
    assert json.loads(request.content) == {"inputs": [tensor]}


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_http_kserve_binary_answer(datatype: str) -> None:
    """Two tensors, of which the second is meant."""
    dtype = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}[datatype]
    rows = np.array([[1, 2], [3, 4]], dtype)
    outputs = [
        {"name": "scores", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {
            "name": "embeddings",
            "datatype": datatype,
            "shape": [2, 2],
            "parameters": {"binary_data_size": rows.nbytes},
        },
    ]
    head = json.dumps({"model_name": "both", "model_version": "3", "outputs": outputs}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    found = Server().wire("both").read(Body(head + b"\0" * 8 + rows.tobytes(), headers))
    assert np.array_equal(found.embeddings, rows) and found.version == "3"


def test_http_kserve_json_answer_of_the_text_model_names_no_version() -> None:
    answer = {"model_name": "words", "model_version": "9"}
    output = {"name": "vector", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    found = Server().wire("images", text_model="words").read(body(answer | {"outputs": [output]}))
    assert np.array_equal(found.embeddings, [[1, 2]]) and found.version is None


@pytest.mark.parametrize(
    ("server", "model", "more", "match"),
    [
        (Server("UINT8"), "images", {}, "needs a tensor of BYTES"),
        (Server("BYTES"), "images", {"image": {"format": "pixels"}}, "needs a tensor of UINT8"),
        (Server(binary=False), "images", {}, "no binary tensors"),
    ],
)
def test_http_kserve_model_that_does_not_fit(
    server: Server, model: str, more: dict[str, Any], match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        server.wire(model, **more).images([PNG])


def test_http_kserve_inputs_that_cannot_be_told_apart() -> None:
    server = Server()
    server.answers["/v2/models/both"]["inputs"][1]["name"] = "image_mask"
    with pytest.raises(ModelError, match="found image_in, image_mask"):
        server.wire("both").images([PNG])
