"""The fake vendor's HTTP server: the standard library's, one thread for each connection."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import ValidationError

from tests.helpers.fake_vendor import kserve
from tests.helpers.fake_vendor.apis import Api, Reply, api_of
from tests.helpers.fake_vendor.items import BadRequest, Request
from tests.helpers.fake_vendor.vendor import TRUTHFUL, Refused, Vendor


class Server(ThreadingHTTPServer):
    """Serves one vendor on 127.0.0.1."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, vendor: Vendor, key: str | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.vendor, self.key = vendor, key


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open from request to request."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test reads the bill."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        vendor = self.server.vendor
        settings = vendor.settings
        found: Any = None
        if path == "/control":
            found = vendor.control({})
        elif path.startswith("/kserve/"):
            found = kserve.described(
                path.removeprefix("/kserve"), settings.dimensions, settings.model_version
            )
        elif path.removeprefix("/openai").removeprefix("/v1") == "/models":
            found = {"object": "list", "data": [{"id": settings.model or "any", "object": "model"}]}
        self._json(404 if found is None else 200, {"detail": "Not Found"} if found is None else found)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        if url.path == "/control":
            self._control(body)
            return
        found = api_of(unquote(url.path))
        if found is None:
            self._json(404, {"detail": "Not Found"})
            return
        name, api = found
        headers = {key.lower(): value for key, value in self.headers.items()}
        trap = self.server.vendor.settings.text_trap
        request = Request(unquote(url.path), parse_qs(url.query), headers, body, trap)
        with self._in_flight():
            try:
                self._sell(name, api, request)
            except BadRequest as error:
                self.server.vendor.count("refused")
                self._json(error.status, api.error(error.status, str(error)))
            except Refused as error:
                self.server.vendor.count("refused")
                self._json(error.status, api.error(error.status, str(error)), error.headers)

    def _sell(self, name: str, api: Api, request: Request) -> None:
        vendor = self.server.vendor
        header, prefix = api.key
        if self.server.key is not None and request.headers.get(header) != prefix + self.server.key:
            raise Refused(401, "invalid api key provided")
        work = vendor.admit(name, api.read(request))
        if work is None or work.fault == "cut_after":
            self._cut()
            return
        reply = vendor.answer(api, work)
        if work.fault == "cut_midway":
            self._send(200, Reply(reply.body, reply.headers), only=len(reply.body) // 2)
            self._cut()
        elif self._is_open() and self._send(200, reply) and work.fault in TRUTHFUL:
            vendor.bill.answered(work.request)

    def _control(self, body: bytes) -> None:
        try:
            self._json(200, self.server.vendor.control(json.loads(body)))
        except (ValidationError, ValueError, TypeError) as error:
            self._json(422, {"detail": str(error)})

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, Reply(json.dumps(content).encode(), kind | (headers or {})))

    def _send(self, status: int, reply: Reply, only: int | None = None) -> bool:
        """Whether the connection took it.

        only: so many bytes of the body, though Content-Length promises all
        """
        try:
            self.send_response(status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body[:only])
            self.wfile.flush()
        except OSError:
            self.close_connection = True
            return False
        return True

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _is_open(self) -> bool:
        """Whether the client still waits; a closed socket would take the first write without a word."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        self.server.vendor.count("in_flight")
        self.server.vendor.count("requests")
        try:
            yield
        finally:
            self.server.vendor.count("in_flight", -1)
