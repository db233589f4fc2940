"""What clients can make a server hold and wait for, bounded: for any ASGI application on Starlette.

A body is in memory from its first byte until its request is answered. Clients that send slowly, or begin and
never end, or go away, must not fill the memory nor stand in the log as faults of the server.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Awaitable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STRIDE_BYTES = 65_536  # of a body, that must come within the time-out
MUCH_BYTES = 32_000_000  # of bodies at once, after which memory is given back
_CLIENT_GONE = 499  # nginx's; nobody reads it but the metrics

Answer = TypeVar("Answer")


class BoundedBodies:
    """A middleware that refuses bodies, as HTTPException where the application reads them.

    max_body_bytes: of one request; beyond them the answer is 413
    max_held_bytes: of all requests not yet answered together; beyond them it is 503 with Retry-After
    timeout_s:      in which the next 64 KB of a body must come, or its end; else it is 408

    A client that goes away within its body ends its request as 499, without a traceback.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_held_bytes: int, timeout_s: float) -> None:
        self._app = app
        self.max_body_bytes, self.max_held_bytes, self.timeout_s = max_body_bytes, max_held_bytes, timeout_s
        self.held_bytes, self._peak_bytes = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._let_go(body.length)

    def hold(self, more_bytes: int) -> None:
        """Count what has come of a body."""
        self.held_bytes += more_bytes
        self._peak_bytes = max(self._peak_bytes, self.held_bytes)

    def _let_go(self, length: int) -> None:
        self.held_bytes -= length
        if not self.held_bytes and self._peak_bytes >= MUCH_BYTES:
            self._peak_bytes = 0
            asyncio.get_running_loop().call_later(1.0, give_back_memory)  # this request holds its own still


class _Body:
    """The body of one request, as far as it has come; `length` bytes."""

    def __init__(self, bounds: BoundedBodies, receive: Receive) -> None:
        self._bounds, self._receive = bounds, receive
        self.length, self._complete = 0, False
        self._due_length, self._due_s = 0, 0.0  # by when so much must have come

    async def receive(self) -> Message:
        """The next message of the server; HTTPException when a bound is passed or the client is gone."""
        if self._complete:  # what comes now is that the client is gone, when it is
            return await self._receive()
        now_s = asyncio.get_running_loop().time()
        if self.length >= self._due_length:
            self._due_length, self._due_s = self.length + STRIDE_BYTES, now_s + self._bounds.timeout_s
        try:
            async with asyncio.timeout_at(self._due_s):
                message = await self._receive()
        except TimeoutError:
            raise _refusal(408, f"the body came too slowly: {self._bounds.timeout_s:g} s for 64 KB") from None
        if message["type"] == "http.disconnect":
            raise _refusal(_CLIENT_GONE, "the client closed the connection")
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    def _count(self, more: int) -> None:
        bounds = self._bounds
        self.length += more
        bounds.hold(more)
        if self.length > bounds.max_body_bytes:
            raise _refusal(413, f"the body is larger than {bounds.max_body_bytes} bytes")
        if bounds.held_bytes > bounds.max_held_bytes:
            raise _refusal(503, f"{bounds.max_held_bytes} bytes of requests are in work; try again later")


def _refusal(status: int, message: str) -> HTTPException:
    """After a body that stopped the connection is closed; what still comes of others the server discards.

    Were the connection closed while a client sends, it would see that in place of the answer.
    """
    headers = {408: {"Connection": "close"}, 503: {"Retry-After": "1"}}.get(status)
    return HTTPException(status, message, headers)


def give_back_memory() -> None:
    """Let glibc return what was freed to the system: of many small pieces it keeps most for itself.

    Other C libraries, which have no malloc_trim, are left alone.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


async def unless_gone(request: Request, answer: Awaitable[Answer]) -> Answer:
    """The answer, which is given up when the client hangs up.

    request: whose body was read

    Raises HTTPException (499) then, and what the answer raises.
    """
    answering = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise _refusal(_CLIENT_GONE, "the client closed the connection")
        return answering.result()
    finally:
        answering.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
