"""One HTTP client for all threads: sends a request once and says what became of it."""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass
from typing import Any

import httpx

from vl2v_deploy.errors import VendorError
from vl2v_deploy.models.teacher.http.apis.wire import JSON, Body, Request
from vl2v_deploy.models.teacher.http.key import ApiKey, KeyAuth, KeylessLogs, without_key
from vl2v_deploy.models.teacher.http.retries import (
    LONGEST_WAIT_S,
    Verdict,
    retry_after_s,
    verdict_of,
    words_of,
)

CONNECT_S = 10.0
MOST_READ, MOST_SAID = 100_000, 300  # bytes of an error's body, and characters of it in a message
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


@dataclass(frozen=True)
class Failed:
    """No embeddings came.

    message: what happened, without the key
    status:  of the answer; None where none came
    paid:    whether the vendor may have charged for it
    verdict: what to do now
    wait_s:  that the server asked to wait
    blamed:  positions of the items whose request failed; None where no item is to blame
    """

    message: str
    status: int | None
    paid: bool
    verdict: Verdict
    wait_s: float | None = None
    blamed: range | None = None

    @property
    def error(self) -> VendorError:
        terminal = self.verdict in ("stop", "refused")
        return VendorError(self.message, status=self.status, terminal=terminal, positions=self.blamed)


class Transport:
    """Speaks to one server with one key; threads may share it.

    url:  base URL
    over: what carries the requests; None = the network
    """

    def __init__(
        self,
        url: str,
        key: ApiKey | None,
        key_header: tuple[str, str],
        *,
        connections: int,
        timeout_s: float,
        over: httpx.BaseTransport | None = None,
    ) -> None:
        self._url, self._key = url.rstrip("/"), key
        self.host = httpx.URL(url).netloc.decode()
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s), pool=None)
        auth = KeyAuth(key, key_header) if key else None
        self._client = httpx.Client(auth=auth, limits=limits, timeout=timeout, transport=over)
        weakref.finalize(self, _close, self._client, KeylessLogs(key) if key else None)

    def post(self, request: Request) -> Body | Failed:
        """The body of an answer with status 200, or what happened instead; raises nothing of httpx."""
        headers = {"Content-Type": request.content_type, "Accept": JSON, **request.headers}
        if request.content_type != JSON:
            headers["Accept"] = "*/*"
        return self._outcome("POST", request.path, request.content, headers)

    def get(self, path: str) -> Any:
        """The JSON at a path below the base URL; raises VendorError. Costs nothing."""
        outcome = self._outcome("GET", path, b"", {"Accept": JSON})
        if isinstance(outcome, Failed):
            raise outcome.error
        try:
            return json.loads(outcome.content)
        except ValueError:
            pass
        raise VendorError(
            self._said(f"{path}: expected JSON, got {self._words(outcome.content)}"), status=200
        )

    def _outcome(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> Body | Failed:
        # What httpx raises holds the headers, and with them the key, in the locals of its frames: it becomes
        # a value here, so that no traceback can show it.
        try:
            response = self._client.request(method, f"{self._url}{path}", content=content, headers=headers)
        except NOT_SENT as error:
            words = f"cannot be reached: {_kind(error)}; is teacher.url right, and the server running?"
            return Failed(self._said(words), None, paid=False, verdict="again")
        except httpx.TimeoutException as error:
            return Failed(self._said(f"no answer in time: {_kind(error)}"), None, paid=True, verdict="again")
        except Exception as error:  # a connection that was cut, and whatever else httpx may raise
            return Failed(self._said(f"no answer: {_kind(error)}"), None, paid=True, verdict="again")
        found = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code == 200:
            return Body(response.content, found)
        return self._failed(response.status_code, found, response.content)

    def _failed(self, status: int, headers: dict[str, str], content: bytes) -> Failed:
        words, wait_s = self._words(content), retry_after_s(headers)
        verdict = verdict_of(status, headers, content[:MOST_READ].decode(errors="replace"))
        message = f"HTTP {status}: {words}"
        if 300 <= status < 400:
            message = f"HTTP {status}: it redirects, which is not followed: set teacher.url to where it leads"
        if verdict in ("wait", "again") and wait_s is not None and wait_s > LONGEST_WAIT_S:
            verdict = "stop"
            message += f" (it asks to wait {wait_s:,.0f} s, more than {LONGEST_WAIT_S:.0f}; run again then)"
        # A server that fails after its work was done answers 5xx, and any other success may be charged: only
        # a refusal certainly is not.
        paid = status >= 500 or status < 300
        return Failed(self._said(message), status, paid=paid, verdict=verdict, wait_s=wait_s)

    def without_key(self, text: str) -> str:
        """What a server said, with the key hidden where it echoes that."""
        return without_key(text, self._key)

    def _words(self, content: bytes) -> str:
        """What an error's body says; servers echo keys, so it is cut only when the key is hidden."""
        words = self.without_key(words_of(content[:MOST_READ].decode(errors="replace")))
        return f"{words[:MOST_SAID]} ..." if len(words) > MOST_SAID else words

    def _said(self, message: str) -> str:
        return f"teacher: {self.host}: {self.without_key(message)}"


def _close(client: httpx.Client, logs: KeylessLogs | None) -> None:
    client.close()
    if logs:
        logs.remove()


def _kind(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
