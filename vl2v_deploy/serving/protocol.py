"""uvicorn's HTTP/1.1 with a time-out for request headers, which it has none for."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """Closes a connection that sends no whole headers of a request in time.

    The time runs from the connection, or from the first byte of a later request on it; how long a connection
    may lie idle between two is uvicorn's `timeout_keep_alive`.
    """

    headers_timeout_s = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """Runs the timer just while the headers of a request are awaited."""
        if not self._awaits_headers():
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.headers_timeout_s, self._close_if_waiting)

    def _awaits_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_if_waiting(self) -> None:
        self._timer = None
        if self._awaits_headers():
            self.transport.close()


def protocol_with_timeout(headers_timeout_s: float) -> type[TimedProtocol]:
    """For `uvicorn.Config(http=...)`: TimedProtocol with this time-out."""
    return type("TimedProtocol", (TimedProtocol,), {"headers_timeout_s": headers_timeout_s})
