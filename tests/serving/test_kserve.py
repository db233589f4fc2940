"""The KServe v2 API of a served teacher, asked by hand; test_official_clients.py has Triton's own client."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.helpers.served import coloured_images, png_bytes, served
from tests.helpers.teachers import ColourTeacher
from vl2v_deploy import __version__

TEXTS = ["a photo of a cat", "ink", "der Hund läuft"]
INFER = "/v2/models/colour/infer"


@pytest.fixture(scope="module")
def teacher() -> ColourTeacher:
    return ColourTeacher()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return coloured_images(6)


@pytest.fixture(scope="module")
def url(teacher: ColourTeacher) -> Iterator[str]:
    with served(teacher, max_pixels=100_000) as url:
        yield url


def elements(parts: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def ask_binary(
    url: str,
    name: str,
    datatype: str,
    shape: list[int],
    raw: bytes,
    binary_answer: bool = True,
    size: int = -1,
) -> httpx.Response:
    tensor = {"name": name, "datatype": datatype, "shape": shape}
    tensor["parameters"] = {"binary_data_size": len(raw) if size < 0 else size}
    outputs = [{"name": "embeddings", "parameters": {"binary_data": binary_answer}}]
    head = json.dumps({"id": "7", "inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return httpx.post(url + INFER, content=head + raw, headers=headers)


def ask_json(url: str, **tensor: Any) -> httpx.Response:
    return httpx.post(url + INFER, json={"inputs": [tensor]})


def rows_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    length = answer.headers.get("Inference-Header-Content-Length")
    split = len(answer.content) if length is None else int(length)
    [output] = json.loads(answer.content[:split])["outputs"]
    assert (output["name"], output["datatype"]) == ("embeddings", "FP32")
    raw = answer.content[split:]
    assert (output["parameters"]["binary_data_size"] == len(raw)) if length else "data" in output
    data = np.frombuffer(raw, "<f4") if length else np.array(output["data"], np.float32)
    return data.reshape(output["shape"])


def test_the_server_describes_itself_and_its_model(url: str) -> None:
    server = httpx.get(f"{url}/v2").json()
    assert server["version"] == __version__ and server["extensions"] == ["binary_tensor_data"]
    model = httpx.get(f"{url}/v2/models/colour").json()
    assert [tensor["name"] for tensor in model["inputs"]] == ["images", "texts"]
    assert model["outputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, 8]}]
    assert httpx.get(f"{url}/v2/models/colour/ready").json()["ready"]
    missing = httpx.get(f"{url}/v2/models/other")
    assert missing.status_code == 404 and "other" in missing.json()["error"]


@pytest.mark.parametrize("binary_answer", [True, False])
def test_files_pixels_and_texts_are_the_teachers_own(
    url: str, teacher: ColourTeacher, images: list[Image.Image], binary_answer: bool
) -> None:
    own = teacher.embed_images(images).numpy()
    files = elements([png_bytes(image) for image in images])
    pixels = np.stack([np.asarray(image) for image in images])
    text = elements([text.encode() for text in TEXTS])
    for name, datatype, shape, raw, expected in (
        ("images", "BYTES", [6], files, own),
        ("images", "BYTES", [6, 1], files, own),
        ("images", "UINT8", list(pixels.shape), pixels.tobytes(), own),
        ("texts", "BYTES", [3], text, teacher.embed_texts(TEXTS).numpy()),
    ):
        answer = ask_binary(url, name, datatype, shape, raw, binary_answer)
        np.testing.assert_allclose(rows_of(answer), expected, atol=1e-6)
        assert ("Inference-Header-Content-Length" in answer.headers) == binary_answer


def test_json_carries_texts_and_pixels(url: str, teacher: ColourTeacher, images: list[Image.Image]) -> None:
    pixels = np.stack([np.asarray(image) for image in images[:2]])
    for data in (pixels.tolist(), pixels.ravel().tolist()):  # both are allowed
        answer = ask_json(url, name="images", datatype="UINT8", shape=list(pixels.shape), data=data)
        np.testing.assert_allclose(rows_of(answer), teacher.embed_images(images[:2]).numpy(), atol=1e-6)
    answer = ask_json(url, name="texts", datatype="BYTES", shape=[3], data=TEXTS)
    np.testing.assert_allclose(rows_of(answer), teacher.embed_texts(TEXTS).numpy(), atol=1e-6)


PNG = png_bytes(Image.new("RGB", (4, 4)))
ONE_PIXEL = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3]}


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "raw", "status", "names"),
    [
        ("images", "BYTES", [2], elements([PNG]), 400, "1 elements"),
        ("images", "BYTES", [1], elements([PNG])[:-1], 400, "cut off"),
        ("images", "BYTES", [1], elements([PNG])[:3], 400, "cut off"),
        ("images", "BYTES", [1], elements([b"no image"]), 422, "image 0"),
        ("images", "BYTES", [0], b"", 422, "1 to 256"),
        ("images", "BYTES", [257], elements([PNG] * 257), 422, "1 to 256"),
        ("images", "UINT8", [1, 4, 4, 3], bytes(47), 400, "47 elements"),
        ("images", "UINT8", [1, 3, 4, 4], bytes(48), 400, "B, H, W, 3"),
        ("images", "UINT8", [1, 0, 4, 3], b"", 422, "pixels"),
        ("images", "UINT8", [2, 200, 400, 3], bytes(480_000), 422, "pixels"),
        ("texts", "BYTES", [1], elements([b"\xff"]), 400, "UTF-8"),
        ("texts", "UINT8", [1, 1, 1, 3], bytes(3), 400, "BYTES"),
        ("other", "BYTES", [1], elements([PNG]), 400, "inputs.0.name"),
        ("images", "FP32", [1], b"1234", 400, "inputs.0.datatype"),
    ],
)
def test_bad_tensors_are_refused_and_named(
    url: str, name: str, datatype: str, shape: list[int], raw: bytes, status: int, names: str
) -> None:
    answer = ask_binary(url, name, datatype, shape, raw)
    assert (answer.status_code, names in answer.json()["error"]) == (status, True), answer.text


def test_lengths_that_do_not_fit_are_refused(url: str) -> None:
    assert (
        "binary_data_size" in ask_binary(url, "texts", "BYTES", [1], elements([b"a"]), size=9).json()["error"]
    )
    for length in ("-1", "x", "99999"):
        headers = {"Inference-Header-Content-Length": length}
        answer = httpx.post(url + INFER, content=b"{}", headers=headers)
        assert answer.status_code == 400 and "Inference-Header" in answer.json()["error"]


@pytest.mark.parametrize(
    ("tensor", "names"),
    [
        ({"name": "images", "datatype": "BYTES", "shape": [1], "data": ["iVBOR"]}, "binary tensor"),
        ({"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 300]}, "0 to 255"),
        ({"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [[1, 2], [3]]}, "lengths"),
        (
            {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2.5, 3]},
            "whole numbers",
        ),
        ({"name": "texts", "datatype": "BYTES", "shape": [1], "data": [7]}, "strings"),
        ({"name": "texts", "datatype": "BYTES", "shape": [1]}, "data"),
    ],
)
def test_bad_json_tensors_are_refused_and_named(url: str, tensor: dict[str, Any], names: str) -> None:
    answer = ask_json(url, **tensor)
    assert answer.status_code == 400 and names in answer.json()["error"]
