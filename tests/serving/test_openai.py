"""The OpenAI-style API of a served teacher, over real HTTP."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.helpers.served import coloured_images, data_uri, served
from tests.helpers.teachers import ColourTeacher

KEY = "a-key-of-the-test"
TEXTS = ["a photo of a cat", "ink", "the dog"]


@pytest.fixture(scope="module")
def teacher() -> ColourTeacher:
    return ColourTeacher()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return coloured_images(9)


@pytest.fixture(scope="module")
def url(teacher: ColourTeacher) -> Iterator[str]:
    with served(teacher, max_body_bytes=1_000_000, max_pixels=100_000) as url:
        yield url


def ask(url: str, inputs: Sequence[str], modality: str = "image", **more: Any) -> httpx.Response:
    body = {"model": "colour", "input": list(inputs), "modality": modality} | more
    return httpx.post(f"{url}/v1/embeddings", json=body)


def embeddings(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [row["index"] for row in data] == list(range(len(data)))
    return np.array([row["embedding"] for row in data])


def test_images_and_texts_are_the_teachers_own(
    url: str, teacher: ColourTeacher, images: list[Image.Image]
) -> None:
    # more than a batch of the teacher holds, in one request
    answer = ask(url, [data_uri(image) for image in images])
    np.testing.assert_allclose(embeddings(answer), teacher.embed_images(images).numpy(), atol=1e-6)
    assert answer.json()["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    answer = ask(url, TEXTS, "text")
    np.testing.assert_allclose(embeddings(answer), teacher.embed_texts(TEXTS).numpy(), atol=1e-6)
    assert answer.json()["model"] == "colour"


def test_base64_holds_the_same_floats(url: str, images: list[Image.Image]) -> None:
    uris = [data_uri(image) for image in images[:3]]
    rows = ask(url, uris, encoding_format="base64").json()["data"]
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]
    np.testing.assert_array_equal(decoded, embeddings(ask(url, uris)).astype(np.float32))


def test_one_text_needs_no_list_and_no_prefix(url: str, teacher: ColourTeacher) -> None:
    answer = httpx.post(f"{url}/embeddings", json={"input": TEXTS[0]})
    np.testing.assert_allclose(embeddings(answer), teacher.embed_texts(TEXTS[:1]).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({"input": ["a"], "model": "gpt"}, 404, "gpt"),
        ({"input": []}, 422, "input"),
        ({"input": ["a"], "modality": "audio"}, 422, "modality"),
        ({"input": ["a"], "normalise": True}, 422, "normalise"),
        ({"input": ["a"], "dimensions": 7}, 422, "8"),
        ({"input": ["a"] * 2049}, 422, "2048"),
        ({"modality": "image", "input": ["http://example.org/a.png"]}, 422, "input.0"),
        ({"modality": "image", "input": [base64.b64encode(b"GIF89a").decode()]}, 422, "input.0"),
        ({"modality": "image", "input": ["data:image/png;base64,////"]}, 422, "image 0"),
        ({"modality": "image", "input": ["data:image/png;base64,*"]}, 422, "base64"),
        ({"modality": "image", "input": ["data:image/png;base64,"]}, 422, "empty"),
    ],
)
def test_bad_input_is_refused_and_named(url: str, body: dict[str, Any], status: int, names: str) -> None:
    answer = httpx.post(f"{url}/embeddings", json=body)
    assert answer.status_code == status
    problem = answer.json()["detail"] if status == 422 else answer.json()["error"]["message"]
    assert names in problem


def test_what_is_no_json_no_plain_body_or_no_path(url: str) -> None:
    assert httpx.post(f"{url}/embeddings", content=b"{").status_code == 422
    packed = httpx.post(f"{url}/embeddings", content=b"{}", headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 415
    assert httpx.get(f"{url}/v1/nothing").status_code == 404
    assert httpx.get(f"{url}/embeddings").status_code == 405


def test_a_decompression_bomb_is_refused_by_its_header(url: str) -> None:
    bomb = Image.new("1", (8_000, 8_000))  # 64 million pixels in 8 kB
    answer = ask(url, [data_uri(bomb)])
    assert answer.status_code == 422 and "more than 100000 pixels" in answer.json()["detail"]


def test_the_images_of_a_request_share_one_limit_of_pixels(url: str) -> None:
    answer = ask(url, [data_uri(Image.new("RGB", (200, 200)))] * 3)
    assert answer.status_code == 422 and "image 2" in answer.json()["detail"]


def test_a_body_that_is_too_large_is_refused(url: str) -> None:
    assert ask(url, ["a" * 1_000_001], "text").status_code == 413


def test_the_key_is_asked_of_every_paid_answer() -> None:
    with served(ColourTeacher(), key=KEY) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            answer = httpx.post(f"{url}/embeddings", json={"input": "a"}, headers=headers)
            assert answer.status_code == 401 and KEY not in answer.text
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            for path in ("/models", "/metrics", "/v2", "/v2/models/colour"):
                assert httpx.get(url + path, headers=headers).status_code == 401
        for path in ("/health", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(url + path).status_code == 200
        right = {"Authorization": f"Bearer {KEY}"}
        assert httpx.post(f"{url}/embeddings", json={"input": "a"}, headers=right).json()["model"] == "colour"
        [model] = httpx.get(f"{url}/v1/models", headers=right).json()["data"]
        assert (model["id"], model["dimensions"]) == ("colour", 8)


def test_another_teacher_has_another_version() -> None:
    versions = []
    for seed in (0, 1):
        with served(ColourTeacher(seed)) as url:
            versions.append(ask(url, ["a"], "text").json()["system_fingerprint"])
            assert versions[-1] == httpx.get(f"{url}/health").json()["version"]
    assert versions[0] != versions[1]


class SlowTeacher(ColourTeacher):
    """Takes its time, and notes how many images came at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.batches = seconds, list[int]()
        self.threads = set[int]()

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        self.batches.append(len(images))
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        return super().embed_images(images)


def test_concurrent_requests_share_batches_and_each_gets_its_own_answer(images: list[Image.Image]) -> None:
    teacher = SlowTeacher(0.05)
    with served(teacher, max_batch=4) as url, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda image: ask(url, [data_uri(image)] * 2), images * 3))
        metrics = httpx.get(f"{url}/metrics").text
    own = np.repeat(ColourTeacher().embed_images(images * 3).numpy(), 2, axis=0)
    np.testing.assert_allclose(np.concatenate([embeddings(answer) for answer in answers]), own, atol=1e-6)
    assert sum(teacher.batches) == 54 and max(teacher.batches) == 4
    assert len(teacher.batches) < 20  # 13.5 full ones
    assert len(teacher.threads) == 1
    for line in (
        'vl2v_requests_total{api="openai",status="200"} 27.0',
        'vl2v_items_total{kind="image"} 54.0',
        'vl2v_batch_size_sum{kind="image"} 54.0',
        f'vl2v_teacher_seconds_count{{kind="image"}} {len(teacher.batches)}.0',
        'vl2v_request_seconds_count{api="openai"} 27.0',
        "vl2v_queue_items 0.0",
    ):
        assert line in metrics.splitlines()


def test_a_full_queue_answers_503_at_once(images: list[Image.Image]) -> None:
    uris = [data_uri(image) for image in images[:4]]
    with served(SlowTeacher(0.5), max_queue=4) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, url, uris)
        time.sleep(0.2)
        refused = ask(url, uris[:1])
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.elapsed.total_seconds() < 0.3
        assert len(embeddings(first.result())) == 4
        assert ask(url, uris[:1]).status_code == 200
        assert ask(url, uris + uris[:1]).status_code == 422  # never fits


def test_a_client_may_ask_so_much_a_minute() -> None:
    with served(ColourTeacher(), images_per_minute=120.0) as url:
        uris = [data_uri(Image.new("RGB", (4, 4)))] * 60
        assert [ask(url, uris).status_code for _ in range(2)] == [200, 200]
        refused = ask(url, uris)
        assert refused.status_code == 429 and 25 <= int(refused.headers["Retry-After"]) <= 30
        assert ask(url, ["a"], "text").status_code == 200  # texts are no images
    with served(ColourTeacher(), requests_per_minute=2.0) as url:
        assert [ask(url, ["a"], "text").status_code for _ in range(3)] == [200, 200, 429]


def test_a_teacher_that_fails_is_500_and_the_next_request_is_answered(images: list[Image.Image]) -> None:
    class Failing(ColourTeacher):
        def embed_texts(self, texts: Sequence[str]) -> Tensor:
            if "bad" in texts:
                raise RuntimeError("a secret of the server")
            return super().embed_texts(texts)

    with served(Failing()) as url:
        failed = ask(url, ["bad"], "text")
        assert failed.status_code == 500 and "secret" not in failed.text
        assert ask(url, ["good"], "text").status_code == 200
        assert "vl2v_queue_items 0.0" in httpx.get(f"{url}/metrics").text.splitlines()


def test_nothing_is_computed_for_a_client_that_has_gone(images: list[Image.Image]) -> None:
    teacher = SlowTeacher(0.4)
    with served(teacher, max_batch=1) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, url, [data_uri(images[0])])
        time.sleep(0.1)
        with pytest.raises(httpx.ReadTimeout):
            body = {"input": [data_uri(image) for image in images], "modality": "image"}
            httpx.post(f"{url}/embeddings", json=body, timeout=0.1)
        assert first.result().status_code == 200
        assert ask(url, [data_uri(images[1])]).status_code == 200
    assert len(teacher.batches) == 2
