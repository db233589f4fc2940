"""A strict fake of eight embedding APIs, in a process of its own, with a bill of what it would have charged.

    with fake_vendor(tmp_path, dimensions=16, images_per_minute=600) as vendor:
        vendor.url("cohere")                       # base URL of an API, for the recipe
        vendor.control(script=["rate_limited", "none", "cut_after"])
        vendor.control(faults={"server_error": 0.05}, moved=0.1)
        # waits until nothing is in flight; read_bill(vendor.folder) does not
        [item.sha256 for item in vendor.bill() if item.kind == "image"]

See settings.py for what can be set, bill.py for what a bill holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.fake_vendor.bill import Billed, read_bill
from tests.helpers.fake_vendor.items import pixels_sha256, text_sha256

__all__ = ["Billed", "FakeVendor", "fake_vendor", "pixels_sha256", "read_bill", "text_sha256"]
_ROOT = Path(__file__).parents[3]


class FakeVendor(NamedTuple):
    """A running fake.

    folder: of the bill
    pid:    of its process
    """

    port: int
    folder: Path
    pid: int

    def url(self, api: str) -> str:
        """Base URL of an API; /v1 or /v2 may follow, as the vendor has it."""
        return f"http://127.0.0.1:{self.port}/{api}"

    def control(self, **changes: Any) -> dict[str, Any]:
        """Settings after `changes`, with the counts in_flight, requests, refused and rate_limited."""
        body = json.dumps(changes).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", body, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from error

    def bill(self) -> list[Billed]:
        """Every item that was billed, when nothing is in flight any more."""
        self.wait_idle()
        return read_bill(self.folder)

    def wait_idle(self, timeout_s: float = 30.0) -> None:
        """Returns when no request is in flight."""
        deadline = time.monotonic() + timeout_s
        while self.control()["in_flight"]:
            assert time.monotonic() < deadline, "the fake vendor is still answering"
            time.sleep(0.02)


@contextmanager
def fake_vendor(
    folder: Path, *, key: str | None = None, port: int = 0, **settings: Any
) -> Iterator[FakeVendor]:
    """A fake vendor in a process of its own, until the block ends.

    folder:   where its bill is kept; a bill that is there is continued
    key:      that requests must carry; None = none is asked for
    settings: see settings.py
    """
    command = [
        sys.executable,
        "-m",
        "tests.helpers.fake_vendor",
        "--folder",
        str(folder),
        "--port",
        str(port),
    ]
    command += ["--settings", json.dumps(settings)] + (["--key-env", "FAKE_VENDOR_KEY"] if key else [])
    environment = os.environ | {"FAKE_VENDOR_KEY": key or "", "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=_ROOT) as process:
        try:
            assert process.stdout is not None
            word, _, number = process.stdout.readline().partition(" ")
            assert word == "port", f"the fake vendor did not start; see its error above ({command})"
            vendor = FakeVendor(int(number), folder, process.pid)
            yield vendor
            with suppress(OSError, AssertionError):  # a test may have killed it, or left it a long wait
                vendor.wait_idle(2.0)
        finally:
            process.kill()
