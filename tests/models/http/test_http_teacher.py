"""Buying over HTTP: everything is kept once, accounted for, asked again where it helps, stopped where not."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.helpers.vendor_recipes import KEY, KEY_ENV, vendor_recipe, vendor_teacher
from vl2v_deploy.errors import BudgetError, ImageError, SettingError, VendorError
from vl2v_deploy.models.ledger.ledger import Ledger
from vl2v_deploy.models.teacher.http import HttpTeacher, asking
from vl2v_deploy.models.teacher.protocol import Price, Vendor

Reply = httpx.Response | Exception


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (number % 256, number // 256, 7))


def embedding(content: bytes) -> np.ndarray:
    row = np.frombuffer(hashlib.sha512(content).digest()[:64], "<u4").astype(np.float32)
    return row / np.linalg.norm(row)


def expected(number: int) -> Tensor:
    return torch.from_numpy(embedding(np.asarray(picture(number)).tobytes()))


class Server:
    """Answers an OpenAI-style or Cohere request about images or texts; `replies` come first, one each."""

    def __init__(self, *replies: Reply | Callable[[], Reply]) -> None:
        self.replies, self.lock = list(replies), threading.Lock()
        self.requests: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        tree = json.loads(request.content)
        with self.lock:
            self.requests.append(tree)
            reply = self.replies.pop(0) if self.replies else None
        reply = reply() if callable(reply) else reply
        if isinstance(reply, Exception):
            raise reply
        return reply or self.answer(tree)

    def rows(self, tree: Any) -> list[list[float]]:
        items = tree.get("input") or tree.get("images") or tree["texts"]
        return [embedding(_content(item)).tolist() for item in items]

    def answer(self, tree: Any) -> httpx.Response:
        if "input_type" in tree:
            return httpx.Response(200, json={"embeddings": {"float": self.rows(tree)}})
        data = [{"index": place, "embedding": row} for place, row in enumerate(self.rows(tree))]
        return httpx.Response(200, json={"data": data[::-1], "model": "clip@2"})

    @property
    def sent(self) -> int:
        """Items in all requests."""
        return sum(len(self.rows(tree)) for tree in self.requests)


def _content(item: str) -> bytes:
    if not item.startswith("data:"):
        return item.encode()
    image = Image.open(io.BytesIO(base64.b64decode(item.partition(",")[2])))
    return np.asarray(image).tobytes()


class Kept:
    """What was kept: by position; each once."""

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}
        self.inside = 0

    def __call__(self, positions: Any, embeddings: Tensor) -> None:
        self.inside += 1
        assert self.inside == 1, "keep was called by two threads at once"
        time.sleep(0.001)
        for position, row in zip(positions, embeddings, strict=True):
            assert position not in self.rows
            self.rows[position] = row
        self.inside -= 1

    def assert_right(self) -> None:
        for position, row in self.rows.items():
            assert torch.allclose(row, expected(position), atol=1e-6)


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "delay_s", lambda _: 0.0)
    monkeypatch.setenv(KEY_ENV, KEY)


def build(
    folder: Path, server: Callable[..., httpx.Response], api: str = "openai", **more: Any
) -> tuple[HttpTeacher, Ledger]:
    return vendor_teacher(folder, vendor_recipe(api, **more), httpx.MockTransport(server))


def spent(ledger: Ledger) -> dict[str, tuple[int, int, float]]:
    """Images, texts and dollars by state."""
    return {entry.state: (entry.images, entry.texts, round(entry.usd, 9)) for entry in ledger.entries()}


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (4, 3), (32, 8)])
def test_http_purchase_keeps_each_image_once(tmp_path: Path, batch_size: int, concurrency: int) -> None:
    server, kept = Server(), Kept()
    teacher, ledger = build(tmp_path, server, batch_size=batch_size, concurrency=concurrency)
    teacher.buy_images((picture(number) for number in range(50)), kept)
    assert sorted(kept.rows) == list(range(50))
    kept.assert_right()
    assert spent(ledger) == {"settled": (50, 0, 0.05)}
    assert server.sent == 50 and len(server.requests) == -(-50 // batch_size)
    assert teacher.answered_version == "clip@2" and isinstance(teacher, Vendor)


def test_http_success_that_is_not_200_may_have_been_charged(tmp_path: Path) -> None:
    teacher, ledger = build(tmp_path, Server(httpx.Response(202, json={"status": "queued"})))
    with pytest.raises(VendorError, match="HTTP 202") as refused:
        teacher.buy_images([picture(0)], Kept())
    assert spent(ledger) == {"unknown": (1, 0, 0.001)} and refused.value.terminal


def test_http_version_that_is_a_number_is_kept(tmp_path: Path) -> None:
    server, kept = Server(), Kept()
    row = expected(0).tolist()
    server.replies = [httpx.Response(200, json={"data": [{"index": 0, "embedding": row}], "model": 7})]
    teacher, _ = build(tmp_path, server)
    teacher.buy_images([picture(0)], kept)
    assert teacher.answered_version == "7" and list(kept.rows) == [0]


def test_http_texts_and_queries_that_nobody_keeps(tmp_path: Path) -> None:
    teacher, ledger = build(tmp_path, Server())
    rows = teacher.embed_texts(["a", "b", "ä", "d", "e"])
    assert torch.allclose(rows[2], torch.from_numpy(embedding("ä".encode())))
    assert torch.allclose(teacher.embed_images([picture(3)])[0], expected(3))
    assert spent(ledger) == {"settled": (1, 5, 0.0035)}


def test_http_images_are_pulled_as_requests_go_out(tmp_path: Path) -> None:
    """A slow server must not make this machine hold every image of a data set."""
    go, pulled = threading.Event(), 0

    def blocked(request: httpx.Request) -> httpx.Response:
        assert go.wait(30)
        return server(request)

    def images() -> Iterator[Image.Image]:
        nonlocal pulled
        for number in range(400):
            pulled = number + 1
            yield picture(number)

    server, kept = Server(), Kept()
    teacher, _ = build(tmp_path, blocked, batch_size=2, concurrency=3)
    buying = threading.Thread(target=teacher.buy_images, args=(images(), kept))
    buying.start()
    time.sleep(0.5)
    assert 6 <= pulled < 60
    go.set()
    buying.join()
    assert sorted(kept.rows) == list(range(400))


def test_http_requests_are_in_flight_at_once_without_a_barrier(tmp_path: Path) -> None:
    """One slow answer holds up nobody else; `concurrency` requests and no more are under way."""
    inside, most, came, lock = 0, 0, 0, threading.Lock()
    first_four, slow = threading.Barrier(4), threading.Event()

    def count(request: httpx.Request) -> httpx.Response:
        nonlocal inside, most, came
        with lock:
            came, inside = came + 1, inside + 1
            number, most = came, max(most, inside)
        if number <= 4:
            first_four.wait(20)
        if number == 1:
            assert slow.wait(20), "the others waited for the first"
        if number == 30:
            slow.set()
        with lock:
            inside -= 1
        return server(request)

    server, kept = Server(), Kept()
    teacher, _ = build(tmp_path, count, batch_size=1, concurrency=4)
    teacher.buy_images(map(picture, range(40)), kept)
    assert most == 4 and sorted(kept.rows) == list(range(40))


GARBAGE = [
    httpx.Response(200, text="<html>Welcome</html>"),
    httpx.Response(200, json={"data": [], "model": "clip"}),
]


@pytest.mark.parametrize(
    ("replies", "states"),
    [
        ([httpx.Response(500), httpx.Response(503)], {"settled": (1, 0, 0.001), "unknown": (2, 0, 0.002)}),
        ([httpx.ReadTimeout("late")], {"settled": (1, 0, 0.001), "unknown": (1, 0, 0.001)}),
        (
            [httpx.RemoteProtocolError("cut"), httpx.WriteError("cut")],
            {"settled": (1, 0, 0.001), "unknown": (2, 0, 0.002)},
        ),
        ([httpx.ConnectError("refused"), httpx.ConnectTimeout("")], {"settled": (1, 0, 0.001)}),
        ([httpx.Response(408), httpx.Response(429)] * 3, {"settled": (1, 0, 0.001)}),
        (GARBAGE[:2], {"settled": (3, 0, 0.003)}),
    ],
)
def test_http_failures_that_pass_are_asked_again(
    tmp_path: Path, replies: list[Reply], states: dict[str, Any]
) -> None:
    server, kept = Server(*replies), Kept()
    teacher, ledger = build(tmp_path, server)
    teacher.buy_images([picture(0)], kept)
    kept.assert_right()
    assert spent(ledger) == states
    assert len(server.requests) == len(replies) + 1


@pytest.mark.parametrize(
    ("reply", "states", "words"),
    [
        (httpx.Response(500), {"unknown": (4, 0, 0.004)}, "HTTP 500"),
        (httpx.ReadTimeout("late"), {"unknown": (4, 0, 0.004)}, "ReadTimeout"),
        (httpx.ConnectError("refused"), {}, "cannot be reached: ConnectError: refused"),
        (GARBAGE[0], {"settled": (4, 0, 0.004)}, "not in the API's format"),
        (GARBAGE[1], {"settled": (4, 0, 0.004)}, "0 embeddings came for 1"),
    ],
)
def test_http_failures_that_stay_end_the_purchase_after_a_few_tries(
    tmp_path: Path, reply: Reply, states: dict[str, Any], words: str
) -> None:
    server = Server(*[reply] * 50)
    teacher, ledger = build(tmp_path, server)
    with pytest.raises(VendorError, match=f"{words}.*asked 4 times") as stopped:
        teacher.buy_images([picture(0)], Kept())
    assert len(server.requests) == 4 and spent(ledger) == states
    assert not stopped.value.terminal and "vendor.test" in str(stopped.value)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (httpx.Response(401, json={"detail": "invalid api key"}), 401),
        (httpx.Response(402, json={"message": "payment required"}), 402),
        (httpx.Response(403, json={"error": {"message": "not this model"}}), 403),
        (httpx.Response(429, json={"error": {"message": "check your plan and billing details"}}), 429),
        (httpx.Response(400, json={"message": "Your credit balance is too low"}), 400),
        (httpx.Response(429, headers={"Retry-After": "3600"}), 429),
        (httpx.Response(302, headers={"Location": "https://elsewhere.test"}), 302),
    ],
)
def test_http_terminal_answer_stops_everything_and_keeps_what_is_in_flight(
    tmp_path: Path, reply: httpx.Response, status: int
) -> None:
    """One of four is refused while the others are under way: they are kept, and nothing else is asked."""
    under_way = threading.Barrier(4)

    def together(request: httpx.Request) -> httpx.Response:
        [url] = json.loads(request.content)["input"]
        under_way.wait(10)
        if np.array_equal(np.frombuffer(_content(url), np.uint8)[:1], [0]):
            return reply
        time.sleep(0.2)
        return server(request)

    server, kept = Server(), Kept()
    teacher, ledger = build(tmp_path, together, batch_size=1, concurrency=4)
    with pytest.raises(VendorError) as stopped:
        teacher.buy_images(map(picture, range(100)), kept)
    assert (stopped.value.status, stopped.value.terminal) == (status, True)
    assert sorted(kept.rows) == [1, 2, 3]
    kept.assert_right()
    assert spent(ledger) == {"settled": (3, 0, 0.003)}


def test_http_wait_that_is_too_long_is_said(tmp_path: Path) -> None:
    teacher, _ = build(tmp_path, Server(httpx.Response(429, headers={"Retry-After": "3600"})))
    with pytest.raises(VendorError, match="asks to wait 3,600 s, more than 120"):
        teacher.embed_images([picture(0)])


def test_http_terminal_answer_ends_a_long_pause(tmp_path: Path) -> None:
    """Threads that wait until they may ask again do not hold up the end."""
    both = threading.Barrier(2)

    def late(request: httpx.Request) -> httpx.Response:
        if both.wait(10) == 0:
            return httpx.Response(429, headers={"Retry-After": "60"})
        time.sleep(0.3)
        return httpx.Response(401)

    teacher, _ = build(tmp_path, late, batch_size=1, concurrency=2)
    started = time.monotonic()
    with pytest.raises(VendorError):
        teacher.buy_images([picture(0), picture(1)], Kept())
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("header", [{"Retry-After": "0.6"}, {"retry-after-ms": "600"}])
def test_http_pause_that_the_server_asks_for_is_kept_by_all(tmp_path: Path, header: dict[str, str]) -> None:
    times: list[float] = []

    def limited(request: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        return httpx.Response(429, headers=header) if len(times) == 1 else server(request)

    server, kept = Server(), Kept()
    teacher, ledger = build(tmp_path, limited, batch_size=1, concurrency=4)
    teacher.buy_images(map(picture, range(12)), kept)
    after = [at - times[0] for at in times if at > times[0] + 0.1]  # others were under way already
    assert len(after) >= 5 and min(after) >= 0.6
    assert sorted(kept.rows) == list(range(12)) and spent(ledger) == {"settled": (12, 0, 0.012)}


def test_http_request_that_is_refused_names_its_images(tmp_path: Path) -> None:
    def picky(request: httpx.Request) -> httpx.Response:
        urls = json.loads(request.content)["input"]
        bad = any(np.frombuffer(_content(url), np.uint8)[0] == 6 for url in urls)
        return httpx.Response(422, json={"detail": "cannot read image"}) if bad else server(request)

    server, kept = Server(), Kept()
    teacher, ledger = build(tmp_path, picky, concurrency=1)
    with pytest.raises(VendorError, match=r"cannot read image \(images 4 to 7\)") as stopped:
        teacher.buy_images(map(picture, range(20)), kept)
    assert stopped.value.terminal and stopped.value.status == 422
    assert sorted(kept.rows) == [0, 1, 2, 3] and spent(ledger) == {"settled": (4, 0, 0.004)}


@pytest.mark.parametrize("rows", [[[1.0] * 8], [[1.0] * 32]])
def test_http_other_dimension_is_not_paid_twice(tmp_path: Path, rows: list[list[float]]) -> None:
    reply = httpx.Response(200, json={"data": [{"index": 0, "embedding": rows[0]}]})
    teacher, ledger = build(tmp_path, Server(*[reply] * 9))
    with pytest.raises(VendorError, match=r"teacher\.dimensions is 16 \(image 0\)"):
        teacher.embed_images([picture(0)])
    assert spent(ledger) == {"settled": (1, 0, 0.001)}


def test_http_failure_to_keep_stops_and_what_was_paid_is_settled(tmp_path: Path) -> None:
    def full(positions: Any, embeddings: Tensor) -> None:
        raise OSError(28, "No space left on device", "journal")

    server = Server()
    teacher, ledger = build(tmp_path, server, batch_size=1, concurrency=1)
    with pytest.raises(OSError, match="No space left"):
        teacher.buy_images(map(picture, range(50)), full)
    assert len(server.requests) == 1 and spent(ledger) == {"settled": (1, 0, 0.001)}


@pytest.mark.parametrize("budget", [{"max_usd": 0.0105}, {"max_queries": 10}])
def test_http_budget_is_never_passed(tmp_path: Path, budget: dict[str, float]) -> None:
    server, kept = Server(), Kept()
    teacher, ledger = build(tmp_path, server, batch_size=1, concurrency=8, budget=budget)
    with pytest.raises(BudgetError):
        teacher.buy_images(map(picture, range(100)), kept)
    assert len(kept.rows) == 10 == server.sent
    kept.assert_right()
    assert spent(ledger) == {"settled": (10, 0, 0.01)}


def test_http_error_of_the_images_themselves_keeps_what_is_in_flight(tmp_path: Path) -> None:
    def images() -> Iterator[Image.Image]:
        yield from map(picture, range(4))
        raise ImageError("cat.jpg: is cut off")

    kept = Kept()
    teacher, ledger = build(tmp_path, Server(), batch_size=4)
    with pytest.raises(ImageError, match=r"cat\.jpg"):
        teacher.buy_images(images(), kept)
    assert set(kept.rows) <= {0, 1, 2, 3} and spent(ledger).keys() <= {"settled"}


def test_http_image_that_the_api_cannot_take_is_named_before_it_is_sent(tmp_path: Path) -> None:
    server = Server()
    teacher, _ = build(tmp_path, server, batch_size=1, concurrency=1)
    with pytest.raises(ImageError, match="image 1: is 2 x 5 pixels"):
        teacher.buy_images([picture(0), Image.new("RGB", (2, 5))], Kept())
    assert len(server.requests) <= 1


def test_http_cohere_sends_an_item_twice_within_the_batch_size(tmp_path: Path) -> None:
    server, kept = Server(), Kept()
    teacher, ledger = build(tmp_path, server, "cohere", batch_size=5, concurrency=1)
    assert teacher.batch_size == 4
    teacher.buy_images(map(picture, range(9)), kept)
    kept.assert_right()
    assert sorted(kept.rows) == list(range(9))
    assert [len(request["images"]) for request in server.requests] == [5, 5, 1]
    assert [request["images"].index(request["images"][-1]) for request in server.requests] == [1, 2, 0]
    assert spent(ledger) == {"settled": (11, 0, 0.011)}  # the repeated ones are paid


def test_http_cohere_answers_in_another_order_are_refused(tmp_path: Path) -> None:
    class Swapping(Server):
        def rows(self, tree: Any) -> list[list[float]]:
            first, second, *rest = super().rows(tree)
            return [second, first, *rest]

    kept = Kept()
    teacher, ledger = build(tmp_path, Swapping(), "cohere")
    with pytest.raises(VendorError, match="not in the order of the question") as stopped:
        teacher.buy_images(map(picture, range(3)), kept)
    assert stopped.value.terminal and not kept.rows and spent(ledger) == {"settled": (4, 0, 0.004)}


def test_http_vendors_own_count_is_what_is_settled(tmp_path: Path) -> None:
    class Charging(Server):
        def answer(self, tree: Any) -> httpx.Response:
            meta = {"billed_units": {"images": 7}}
            return httpx.Response(200, json={"embeddings": {"float": self.rows(tree)}, "meta": meta})

    teacher, ledger = build(tmp_path, Charging(), "cohere")
    teacher.embed_images([picture(0)])
    assert spent(ledger) == {"settled": (7, 0, 0.007)}


def test_http_identity_is_of_what_can_change_an_answer(tmp_path: Path) -> None:
    def identity(api: str = "openai", url: str = "http://vendor.test/a", **more: Any) -> str:
        return build(tmp_path, Server(), api, url=url, **more)[0].identity

    same = identity()
    assert same.startswith("openai/clip@vendor.test#") and len(same.rpartition("#")[2]) == 12
    others = {
        "api": identity("vllm", batch_size=1),
        "model": identity(model="clip-2"),
        "host": identity(url="http://other.test/a"),
        "path": identity(url="http://vendor.test/b"),
        "dimensions": identity(dimensions=8),
        "size": identity(image={"size_px": 64}),
        "format": identity(image={"size_px": 32, "format": "jpeg"}),
        "quality": identity(image={"size_px": 32, "format": "jpeg", "quality": 50}),
    }
    assert len({same, *others.values()}) == len(others) + 1
    free = {"usd_per_1k_images": 9.0, "concurrency": 9, "key_env": KEY_ENV, "batch_size": 2}
    assert identity(**free, budget={"max_usd": 1.0}) == same
    assert identity(url="http://Vendor.test:80/a/") == same  # the same server, written otherwise
    default = identity(image={"size_px": 32, "format": "jpeg", "quality": 90})
    assert default == others["format"]  # what is sent where no quality is named


def test_http_declarations(tmp_path: Path) -> None:
    teacher, _ = build(tmp_path, Server(), batch_size=3, logit_scale=50.0)
    assert (teacher.embedding_dim, teacher.image_size_px, teacher.batch_size) == (16, 32, 3)
    assert (teacher.logit_scale, teacher.price) == (50.0, Price(1.0, 0.5))
    teacher, _ = build(tmp_path, Server(), usd_per_1k_images=0.0, usd_per_1k_texts=0.0)
    assert (teacher.logit_scale, teacher.price, teacher.answered_version) == (None, None, None)


@pytest.mark.parametrize(("url", "leaves"), [("https://vendor.test", True), ("http://127.0.0.1:7", False)])
def test_http_says_once_where_images_go(
    tmp_path: Path, url: str, leaves: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher, _ = build(tmp_path, Server(), url=url)
    teacher.embed_texts(["a"])
    assert capfd.readouterr() == ("", "")
    for number in range(2):
        teacher.embed_images([picture(number)])
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert url.partition("//")[2] in err and ("leave this machine" in err) == leaves


def test_http_key_that_is_not_set_is_named_before_anything_is_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> Iterator[Image.Image]:
        raise AssertionError("pulled")
        yield

    monkeypatch.delenv(KEY_ENV)
    teacher, _ = build(tmp_path, Server(), "jina")
    with pytest.raises(SettingError, match=f"{KEY_ENV}: is not set"):
        teacher.buy_images(never(), Kept())
