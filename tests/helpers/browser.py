"""A real headless Chromium on folders of this machine: nothing leaves it, and no error goes unseen."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

DESKTOP, PHONE = (1280, 800), (390, 844)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")


def cannot(reason: str) -> NoReturn:
    """Skip the test, or fail it where tests in a browser are required (.ci/run sets that)."""
    if os.environ.get("VL2V_DEPLOY_TEST_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address, without a last slash, of a silent server of a folder on loopback; links are followed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A started Playwright browser; only one at a time, so share it within a module.

    flags: more of Chromium's own command line
    """
    found = [path for name in _NAMES if (path := shutil.which(name))]
    if not found:
        cannot("no Chromium here: install the package chromium (Debian: apt install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        cannot("playwright is not installed: pip install playwright")
    # Names are not even looked up: what a page asks of another machine cannot get there.
    ours = ["--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    ours += [f"--disable-{what}" for what in _QUIET if f"--enable-{what}" not in flags]
    if os.geteuid() == 0:
        ours.append("--no-sandbox")  # Chromium will not be run by root with one
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=[*ours, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, address: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False, **context: Any
) -> Iterator[Any]:
    """A Playwright page in a context of its own; at the end nothing else was asked and no error was logged.

    address: http://127.0.0.1:... or file:///...; what the page asks of any other origin fails the test
    size:    of the window in CSS pixels, (width, height); PHONE is touched, not clicked, as phones are
    dark:    what prefers-color-scheme says
    context: more of Playwright's new_context
    """
    width, height = size
    phone = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2} if size == PHONE else {}
    settings = {
        "viewport": {"width": width, "height": height},
        "color_scheme": "dark" if dark else "light",
        **phone,
        **context,
    }
    own = browser.new_context(**settings)
    errors: list[str] = []
    asked: list[str] = []
    own.on("request", lambda request: asked.append(request.url))
    own.on("weberror", lambda error: errors.append(str(error.error)))
    own.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        page = own.new_page()
        page.goto(address)
        yield page
    finally:
        own.close()
    parts = urlsplit(address)
    allowed = (f"{parts.scheme}://{parts.netloc}/", "data:", "blob:")
    elsewhere = [url for url in asked if not url.startswith(allowed)]
    assert not elsewhere, f"{address} asked for {elsewhere}"
    assert not errors, f"{address} logged {errors}"


class _Handler(SimpleHTTPRequestHandler):
    """Python's own file server, silent, with the types that a browser insists on."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: object) -> None:
        pass
