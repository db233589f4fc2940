"""The API key: read from the environment, put on a request at the last moment, hidden in all that is said."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator

import httpx

from vl2v_deploy.errors import SettingError

HIDDEN = "[key]"
LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))


class ApiKey:
    """A key that no `repr`, log or traceback's text shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The key itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return HIDDEN


def read_key(variable: str | None) -> ApiKey | None:
    """The key that an environment variable holds; None where the recipe names none.

    Raises SettingError that names the variable, and never shows what it holds.
    """
    if variable is None:
        return None
    key = ApiKey(os.environ.get(variable, "").strip())
    if not key:
        raise SettingError(
            f"{variable}: is not set: put the API key into this environment variable, which the recipe's "
            "teacher.key_env names"
        )
    if not _is_plain(key):
        raise SettingError(
            f"{variable}: holds characters that no API key has: a space, a line break or letters "
            "that are not ASCII; copy the key again"
        )
    return key


def _is_plain(key: ApiKey) -> bool:
    return all("!" <= character <= "~" for character in key.get_secret_value())


def without_key(text: str, key: ApiKey | None) -> str:
    """The text with the key hidden, as it is or as Python or JSON quote it: servers echo it."""
    if key is None:
        return text
    for quoted in (str, lambda plain: repr(plain)[1:-1], lambda plain: json.dumps(plain)[1:-1]):
        text = text.replace(quoted(key.get_secret_value()), HIDDEN)
    return text


class KeylessLogs(logging.Filter):
    """Hides the key in what httpx and httpcore log: an answer's headers and reason may hold it."""

    def __init__(self, key: ApiKey) -> None:
        super().__init__()
        self.key = key
        for name in LOGGERS:  # a filter is not asked about records of loggers below its own
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_key(record.getMessage(), self.key), ()
        return True

    def remove(self) -> None:
        """Logs are as before."""
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self)


class KeyAuth(httpx.Auth):
    """Puts the key on each request, so that no client, header table or `repr` holds it between requests.

    header: its name, and what stands before the key
    """

    def __init__(self, key: ApiKey, header: tuple[str, str]) -> None:
        self.key, self.header = key, header

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        name, prefix = self.header
        request.headers[name] = f"{prefix}{self.key.get_secret_value()}"
        yield request
