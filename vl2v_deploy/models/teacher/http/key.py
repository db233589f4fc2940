"""The API key: read from the environment, put on a request at the last moment, hidden in all that is said."""

from __future__ import annotations

import os
from collections.abc import Generator

import httpx
from pydantic import SecretStr

from vl2v_deploy.errors import SettingError

HIDDEN = "[key]"


def read_key(variable: str | None) -> SecretStr | None:
    """The key that an environment variable holds; None where the recipe names none.

    Raises SettingError that names the variable, and never shows what it holds.
    """
    if variable is None:
        return None
    key = SecretStr(os.environ.get(variable, "").strip())
    if not key:
        raise SettingError(
            f"{variable}: is not set; it holds the API key: the recipe's teacher.key_env names it"
        )
    if not _is_plain(key):
        raise SettingError(
            f"{variable}: holds characters that no API key has: a space, a line break or letters "
            "that are not ASCII; copy the key again"
        )
    return key


def _is_plain(key: SecretStr) -> bool:
    return all("!" <= character <= "~" for character in key.get_secret_value())


def without_key(text: str, key: SecretStr | None) -> str:
    """The text with the key hidden: servers echo it in their errors."""
    return text.replace(key.get_secret_value(), HIDDEN) if key else text


class KeyAuth(httpx.Auth):
    """Puts the key on each request, so that no client, header table or `repr` holds it between requests.

    header: its name, and what stands before the key
    """

    def __init__(self, key: SecretStr, header: tuple[str, str]) -> None:
        self.key, self.header = key, header

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        name, prefix = self.header
        request.headers[name] = f"{prefix}{self.key.get_secret_value()}"
        yield request
