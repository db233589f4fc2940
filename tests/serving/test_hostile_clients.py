"""Clients that send slowly, begin and never end, hang up, or send images that take too long."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from tests.helpers.hostile_files import bmp_of_run_lengths
from tests.helpers.served import data_uri, served
from tests.helpers.slow_clients import PATIENCE_S, connection_to, status_of, unfinished_request
from tests.helpers.teachers import ColourTeacher
from vl2v_deploy.client.images import FORMATS
from vl2v_deploy.errors import ServingError
from vl2v_deploy.serving.settings import ServeSettings

PATH = "/v1/embeddings"
HELD_BYTES = 2_000_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = {
        "max_body_bytes": 1_000_000,
        "max_held_body_bytes": HELD_BYTES,
        "read_timeout_s": 3.0,
        "max_pixels": 400_000_000,
    }
    with served(ColourTeacher(), formats=FORMATS, decode_deadline_s=2.0, **limits) as url:
        yield url


def ask(url: str, *uris: str) -> httpx.Response:
    body = {"input": list(uris), "modality": "image"}
    return httpx.post(url + PATH, json=body, timeout=PATIENCE_S)


def counted(url: str, status: int) -> float:
    """Requests that ended so."""
    start = f'vl2v_requests_total{{api="openai",status="{status}"}} '
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def test_hostile_bodies_that_never_end_are_bounded_together_and_given_up(url: str) -> None:
    stuck = [unfinished_request(url, PATH, bytes(300_000)) for _ in range(3)]
    time.sleep(1.0)  # these fit together, and have come before the others: only slowness ends them
    stuck += [unfinished_request(url, PATH, bytes(300_000)) for _ in range(9)]
    statuses = [status_of(connection) for connection in stuck]
    assert sorted(set(statuses)) == [408, 503]
    assert statuses.count(408) <= HELD_BYTES // 300_000
    # all of it is free again: bodies that fill it are read to their end
    uri = data_uri(Image.new("RGB", (8, 8)))
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: httpx.post(url + PATH, content=b" " * 999_000), range(2)))
    assert [answer.status_code for answer in answers] == [422, 422]
    assert ask(url, uri).status_code == 200


def test_hostile_body_that_is_announced_and_sent_byte_by_byte_is_given_up(url: str) -> None:
    connection = unfinished_request(url, PATH, b"{", announced=1000)
    connection.settimeout(0.2)
    began_s = time.monotonic()
    answer = b""
    while not answer:
        assert time.monotonic() - began_s < PATIENCE_S
        try:
            connection.sendall(b" ")
            answer = connection.recv(4096)
        except TimeoutError:
            continue
    connection.close()
    assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer.lower()


def test_hostile_body_that_is_busy_says_when_to_come_again(url: str) -> None:
    held = [unfinished_request(url, PATH, bytes(900_000)) for _ in range(2)]
    time.sleep(0.3)
    refused = httpx.post(url + PATH, content=bytes(900_000))
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "try again later" in refused.json()["error"]["message"]
    assert {status_of(connection) for connection in held} == {408}


def test_hostile_client_that_hangs_up_is_no_fault_of_the_server(url: str) -> None:
    before = counted(url, 499)
    for _ in range(5):
        unfinished_request(url, PATH, bytes(70_000)).close()
    until_s = time.monotonic() + PATIENCE_S
    while counted(url, 499) < before + 5:
        assert time.monotonic() < until_s
        time.sleep(0.02)
    assert counted(url, 500) == 0


def test_hostile_headers_that_never_end_close_the_connection(url: str) -> None:
    for begun in (b"", b"POST /v1/embeddings HTTP/1.1\r\nHost: te"):
        with connection_to(url) as connection:
            connection.sendall(begun)
            assert connection.recv(4096) == b""
    with connection_to(url) as connection:  # headers of a second request, after an answered one
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HT")
        while answer := connection.recv(4096):
            assert b"HTTP/1.1" not in answer


def test_hostile_images_of_a_request_share_a_deadline_and_others_are_answered(url: str) -> None:
    """Each of them is within all bounds, and takes most of a second."""
    slow = bmp_of_run_lengths(3160, 3160, b"\1\0\0\0" * 3160)
    uris = ["data:image/bmp;base64," + base64.b64encode(slow).decode()] * 30
    good = data_uri(Image.new("RGB", (8, 8), "red"))
    with ThreadPoolExecutor(2) as pool:
        hostile = pool.submit(ask, url, *uris)
        assert ask(url, good).status_code == 200
        assert hostile.result().status_code == 422
    assert "to decode: refused" in hostile.result().json()["detail"]
    assert ask(url, good).status_code == 200


def test_hostile_settings_that_let_no_body_in_are_refused() -> None:
    with pytest.raises(ServingError, match="max_held_body_bytes 5: expected at least max_body_bytes, 6"):
        ServeSettings(max_body_bytes=6, max_held_body_bytes=5)
    for setting in ("read_timeout_s", "decode_deadline_s"):
        with pytest.raises(ServingError, match=setting):
            ServeSettings(**{setting: 0.0})  # type: ignore[arg-type]
