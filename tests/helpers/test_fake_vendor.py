"""The fake vendor refuses what published schemas refuse, bills what it says, misbehaves as it is told."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.helpers.fake_vendor import FakeVendor, fake_vendor, pixels_sha256, read_bill, text_sha256

KEY = "a-key-of-the-test"
RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def b64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{b64(image)}"


IMAGES: dict[str, Any] = {
    "openai": ("/embeddings", {"model": "m", "input": [data_url(RED)], "modality": "image"}),
    "vllm": (
        "/v1/embeddings",
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(RED)}}]}
            ],
        },
    ),
    "jina": ("/v1/embeddings", {"model": "m", "input": [{"image": b64(RED)}], "normalized": True}),
    "cohere": (
        "/v2/embed",
        {"model": "m", "images": [data_url(RED)], "input_type": "image", "embedding_types": ["float"]},
    ),
    "voyage": (
        "/v1/multimodalembeddings",
        {
            "model": "m",
            "inputs": [{"content": [{"type": "image_base64", "image_base64": data_url(RED)}]}],
            "input_type": None,
        },
    ),
    "titan": (
        "/model/amazon.titan-embed-image-v1/invoke",
        {"inputImage": b64(RED), "embeddingConfig": {"outputEmbeddingLength": 16}},
    ),
}
PLACE = {
    "openai": lambda answer: answer["data"][0]["embedding"],
    "vllm": lambda answer: answer["data"][0]["embedding"],
    "jina": lambda answer: answer["data"][0]["embedding"],
    "cohere": lambda answer: answer["embeddings"]["float"][0],
    "voyage": lambda answer: answer["data"][0]["embedding"],
    "titan": lambda answer: answer["embedding"],
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), key=KEY) as vendor:
        yield vendor


@pytest.fixture
def vendor(shared: FakeVendor) -> FakeVendor:
    (shared.folder / "bill.jsonl").write_text("")
    shared.control(
        script=[], faults={}, moved=0.0, text_trap=False, images_per_minute=None, retry_after="seconds"
    )
    return shared


def ask(vendor: FakeVendor, api: str, path: str, body: Any, **more: Any) -> httpx.Response:
    name = "Ocp-Apim-Subscription-Key" if api == "azure" else "Authorization"
    headers = {name: KEY if api == "azure" else f"Bearer {KEY}"} | more.pop("headers", {})
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx.post(vendor.url(api) + path, **sent, headers=headers, **more)


def openai_image(vendor: FakeVendor, *images: Image.Image, **more: Any) -> httpx.Response:
    body = {"model": "m", "input": [data_url(image) for image in images], "modality": "image"}
    return ask(vendor, "openai", "/v1/embeddings", body, **more)


def test_every_api_gives_the_same_embedding_and_bills_the_same_pixels(vendor: FakeVendor) -> None:
    rows = []
    for api, (path, body) in IMAGES.items():
        answer = ask(vendor, api, path, body)
        assert answer.status_code == 200, (api, answer.text)
        rows.append(PLACE[api](answer.json()))
    azure = "/computervision/retrieval:vectorizeImage?api-version=2024-02-01&model-version=2023-04-15"
    answer = ask(vendor, "azure", azure, png(RED), headers={"Content-Type": "application/octet-stream"})
    rows.append(answer.json()["vector"])
    assert answer.json()["modelVersion"] == "2023-04-15"
    rows.append(kserve_row(vendor))
    np.testing.assert_allclose(rows, np.broadcast_to(rows[0], (8, 16)), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    bill = vendor.bill()
    assert [item.api for item in bill] == [*IMAGES, "azure", "kserve"]
    assert {item.sha256 for item in bill} == {pixels_sha256(RED)}
    assert {(item.kind, item.format, item.answered, item.metadata) for item in bill} == {
        ("image", "image/png", True, False)
    }


def kserve_row(vendor: FakeVendor) -> list[float]:
    raw = struct.pack("<I", len(png(RED))) + png(RED)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "BYTES",
                    "shape": [1],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "outputs": [{"name": "embeddings", "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = ask(vendor, "kserve", "/v2/models/m/infer", head + raw, headers=headers)
    assert answer.status_code == 200, answer.text
    head_bytes = int(answer.headers["Inference-Header-Content-Length"])
    [output] = json.loads(answer.content[:head_bytes])["outputs"]
    assert output["shape"] == [1, 16]
    return np.frombuffer(answer.content[head_bytes:], "<f4").tolist()


@pytest.mark.parametrize(
    ("api", "change"),
    [
        ("openai", {"input": [b64(RED)]}),
        ("openai", {"normalize": True}),
        ("openai", {"input": [data_url(RED).replace("png", "jpeg", 1)]}),
        ("openai", {"input": [data_url(Image.new("RGB", (2, 8)))]}),
        ("openai", {"input": []}),
        ("openai", {"dimensions": 17}),
        ("vllm", {"input": ["a"]}),
        ("jina", {"input": [{"image": data_url(RED)}]}),
        ("cohere", {"texts": ["a"]}),
        ("cohere", {"input_type": "classification"}),
        ("cohere", {"images": [b64(RED)]}),
        ("voyage", {"inputs": [{"content": [{"type": "image_base64", "image_base64": b64(RED)}]}]}),
        ("titan", {"inputText": "a"}),
    ],
)
def test_what_the_schema_refuses_is_refused_and_not_billed(
    vendor: FakeVendor, api: str, change: dict[str, Any]
) -> None:
    path, body = IMAGES[api]
    answer = ask(vendor, api, path, body | change)
    assert answer.status_code in (400, 422), answer.text
    assert vendor.bill() == []


def test_a_wrong_key_and_a_wrong_path(vendor: FakeVendor) -> None:
    path, body = IMAGES["cohere"]
    refused = ask(vendor, "cohere", path, body, headers={"Authorization": "Bearer wrong"})
    assert (refused.status_code, refused.json()) == (401, {"message": "invalid api key provided"})
    assert ask(vendor, "cohere", "/v1/embeddings", body).status_code == 404
    assert vendor.bill() == []


def test_the_script_goes_before_the_faults(vendor: FakeVendor) -> None:
    vendor.control(script=["rate_limited", "server_error", "none", "quota", "garbage"], retry_after="ms")
    answers = [openai_image(vendor, RED) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [429, 500, 200, 429, 200]
    assert answers[0].headers["retry-after-ms"] == "1000"
    assert "quota" in answers[3].text and "<html>" in answers[4].text
    assert [item.answered for item in vendor.bill()] == [True, False]


@pytest.mark.parametrize(("fault", "billed"), [("cut_before", 0), ("cut_after", 1), ("cut_midway", 1)])
def test_a_cut_connection(vendor: FakeVendor, fault: str, billed: int) -> None:
    vendor.control(script=[fault])
    with pytest.raises(httpx.RemoteProtocolError):
        openai_image(vendor, RED)
    assert [item.answered for item in vendor.bill()] == [False] * billed


def test_an_answer_after_the_time_out_is_billed_and_not_answered(vendor: FakeVendor) -> None:
    vendor.control(script=["late"], late_s=0.5)
    with pytest.raises(httpx.ReadTimeout):
        openai_image(vendor, RED, timeout=0.2)
    vendor.wait_idle()
    assert [item.answered for item in vendor.bill()] == [False]


def test_distortions(vendor: FakeVendor) -> None:
    right = openai_image(vendor, RED, BLUE).json()["data"]

    def data(fault: str) -> list[Any]:
        vendor.control(script=[fault])
        found: list[Any] = openai_image(vendor, RED, BLUE).json()["data"]
        return found

    assert data("shuffled") == right[::-1]
    assert [row["embedding"] for row in data("swapped")] == [row["embedding"] for row in right[::-1]]
    assert [row["index"] for row in data("duplicate_index")] == [0, 0]
    assert [row["index"] for row in data("missing_index")] == [0, 2]
    assert len(data("wrong_count")) == 1
    assert np.isnan(data("nan")[0]["embedding"][0])
    assert not np.any(data("zero")[0]["embedding"])
    assert len(data("other_dimension")[1]["embedding"]) == 32
    vendor.control(script=["truncated"])
    with pytest.raises(json.JSONDecodeError):
        openai_image(vendor, RED, BLUE).json()


def test_a_moved_model_is_at_the_angle_that_was_set(vendor: FakeVendor) -> None:
    before = openai_image(vendor, RED).json()["data"][0]["embedding"]
    vendor.control(moved=0.1)
    after = openai_image(vendor, RED).json()["data"][0]["embedding"]
    assert np.dot(before, after) == pytest.approx(np.cos(0.1), abs=1e-6)


def test_text_names_its_colour_and_the_trap_takes_an_image_for_text(vendor: FakeVendor) -> None:
    def row(modality: str, content: str) -> list[float]:
        body = {"model": "m", "input": [content], "modality": modality}
        found: list[float] = ask(vendor, "openai", "/embeddings", body).json()["data"][0]["embedding"]
        return found

    red, blue = row("image", data_url(RED)), row("image", data_url(BLUE))
    text = row("text", "a photo of a red square")
    assert np.dot(text, red) > 0.8 > np.dot(text, blue)
    assert vendor.bill()[2].sha256 == text_sha256("a photo of a red square")
    vendor.control(text_trap=True)
    assert row("image", data_url(RED)) == row("text", data_url(RED)) != red
    assert [item.kind for item in vendor.bill()[3:]] == ["text", "text"]


def test_the_limit_counts_images_and_tells_how_long_to_wait(vendor: FakeVendor) -> None:
    vendor.control(images_per_minute=60.0, burst_s=4.0)
    assert openai_image(vendor, RED, BLUE, RED).status_code == 200
    refused = openai_image(vendor, RED, BLUE)
    assert refused.status_code == 429 and 0.5 < float(refused.headers["Retry-After"]) <= 1
    assert vendor.control()["rate_limited"] == 1
    vendor.control(images_per_minute=None)
    assert openai_image(vendor, RED, BLUE).status_code == 200
    assert len(vendor.bill()) == 5


def test_metadata_is_noted(vendor: FakeVendor) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    RED.save(file, "PNG", exif=exif)
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    ask(vendor, "openai", "/embeddings", {"model": "m", "input": [url], "modality": "image"})
    assert vendor.bill()[0].metadata


def test_a_bill_is_continued_by_the_next_process(tmp_path: Path) -> None:
    for _ in range(2):
        with fake_vendor(tmp_path, dimensions=4) as vendor:
            assert len(openai_image(vendor, RED).json()["data"][0]["embedding"]) == 4
    assert [(item.request, item.answered) for item in read_bill(tmp_path)] == [(1, True), (2, True)]


def test_unknown_settings_are_refused(vendor: FakeVendor) -> None:
    with pytest.raises(ValueError, match="typo"):
        vendor.control(typo=1)
    with pytest.raises(ValueError, match="above 1"):
        vendor.control(faults={"nan": 0.6, "zero": 0.6})
