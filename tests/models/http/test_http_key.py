"""The API key: it is sent, and it is nowhere else."""

from __future__ import annotations

import io
import json
import logging
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from PIL import Image
from rich.console import Console
from rich.traceback import Traceback

from tests.helpers.vendor_recipes import KEY, KEY_ENV, ONE_ITEM, vendor_recipe, vendor_teacher
from vl2v_deploy.errors import SettingError, VendorError
from vl2v_deploy.models.teacher.http import asking
from vl2v_deploy.models.teacher.http.key import read_key
from vl2v_deploy.recipe import APIS

MODES = ("plain", "json", "escaped", "long", "html", "redirect", "cut", "garbage", "retry")


class Echo(BaseHTTPRequestHandler):
    """Answers with the key that it was sent, in the way that the path's last part says; cuts, redirects."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[str]] = []

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sent = self.headers.get("Authorization") or self.headers.get("Ocp-Apim-Subscription-Key") or ""
        self.seen.append(sent)
        key, mode = sent.removeprefix("Bearer "), self.path.split("/")[1]
        escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
        status, body = {
            "plain": (401, f"key {key} is wrong"),
            "json": (403, json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}})),
            "escaped": (400, f'{{"message": "no access with {escaped}"}}'),
            "long": (400, json.dumps({"detail": "x" * 290 + key})),
            "html": (502, f"<html>Authorization: Bearer {key}</html>"),
            "redirect": (307, ""),
            "garbage": (200, f"hello {key}"),
            "retry": (429, f"{key}: slow down"),
        }.get(mode, (0, ""))
        if not status:
            self.close_connection = True
            return
        self.send_response(status, f"No {key}")
        self.send_header("Location", f"http://127.0.0.1:9/?key={key}")
        self.send_header("X-Request-Key", key)
        self.send_header("Retry-After", "900" if mode == "retry" else "0")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """URL of the server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def everything_about(error: BaseException) -> str:
    """The error as any tool may show it: message, fields, and tracebacks with the locals of each frame."""
    text = io.StringIO()
    rich = Traceback.from_exception(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_string=None,
        locals_max_length=None,
    )
    Console(file=text, width=400).print(rich)
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    found = [text.getvalue(), *plain.format(), repr(error), str(vars(error)), str(error.args)]
    chain = [error.__cause__, error.__context__]
    return "\n".join(found + [everything_about(one) for one in chain if one is not None])


@pytest.mark.parametrize(
    ("api", "mode"), [*(("kserve", mode) for mode in MODES), *((api, "json") for api in APIS)]
)
def test_http_key_is_sent_and_never_shown(
    api: str,
    mode: str,
    echo: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Echo.seen.clear()
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(asking, "delay_s", lambda _: 0.0)
    caplog.set_level(logging.DEBUG)
    recipe = vendor_recipe(api, f"{echo}/{mode}", key_env=KEY_ENV, batch_size=1 if api in ONE_ITEM else 4)
    teacher, _ = vendor_teacher(tmp_path, recipe)
    with pytest.raises(VendorError) as stopped:
        teacher.embed_images([Image.new("RGB", (8, 8))] * 3)
    assert Echo.seen and all(KEY in sent for sent in Echo.seen)
    out, err = capfd.readouterr()
    shown = [everything_about(stopped.value), caplog.text, out, err, repr(teacher), str(vars(teacher))]
    shown += [repr(teacher._transport), str(vars(teacher._transport)), teacher.identity, str(recipe)]
    shown += [str(vars(teacher._transport._client)), str(teacher._transport._client.headers)]
    for file in tmp_path.rglob("*"):
        shown += [file.name, file.read_bytes().decode(errors="replace") if file.is_file() else ""]
    for part in (KEY, KEY[:12], KEY[-10:]):  # nor a large part of it, where a message was cut
        assert [text for text in shown if part in text] == []
    assert "httpcore" in caplog.text  # there was something to look through


def test_http_key_that_an_answer_echoes_is_not_in_an_error_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that can be used names the key as the model; keeping it fails."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        data = [{"index": 0, "embedding": [1.0] * 16}]
        return httpx.Response(200, json={"data": data, "model": KEY}, headers={"X-Key": KEY})

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setenv(KEY_ENV, KEY)
    teacher, _ = vendor_teacher(tmp_path, vendor_recipe("jina"), httpx.MockTransport(answer))
    with pytest.raises(OSError, match="no space") as failed:
        teacher.buy_images([Image.new("RGB", (8, 8))], full)
    assert KEY not in everything_about(failed.value) and teacher.answered_version == "[key]"


@pytest.mark.parametrize("value", ["", "   ", "two words", "line\nbreak", "schlüssel"])
def test_http_key_that_is_none_is_refused_without_showing_it(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, value)
    with pytest.raises(SettingError, match=f"^{KEY_ENV}: (is not set|holds characters)") as refused:
        read_key(KEY_ENV)
    assert len(str(refused.value).splitlines()) == 1
    if value.strip():
        inside = refused.value.__traceback__ and refused.value.__traceback__.tb_next  # not this function
        assert value not in everything_about(refused.value.with_traceback(inside))


def test_http_key_is_stripped_of_a_line_break_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, f"{KEY}\n")
    key = read_key(KEY_ENV)
    assert key is not None and key.get_secret_value() == KEY
    assert KEY not in f"{key} {key!r}"
