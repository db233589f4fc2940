"""Servers and clients that are not ours, in the environments that `make test` gives each of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def peer(name: str, program: str = "python") -> str:
    """A program of .venv-<name>; skips the test where make could not install it."""
    path = ROOT / f".venv-{name}/bin/{program}"
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not there: `make test` or `make test-long` makes it")
    return str(path)


def ask_peer(name: str, code: str, **variables: Any) -> Any:
    """What `code` leaves in the name `answer`, run by .venv-<name>.

    variables: global names of the code; as the answer, whatever JSON holds
    """
    lines = f"import json, sys\nglobals().update(json.load(sys.stdin))\n{code}\nprint(json.dumps(answer))\n"
    done = subprocess.run(
        [peer(name), "-c", lines], input=json.dumps(variables), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def running(command: Sequence[str], ready: str, log: Path, **environment: str) -> Iterator[None]:
    """A server in a process of its own, until the block ends.

    ready: URL that answers 200 once it serves
    log:   where it writes
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | environment
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(ready):
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{ready} does not answer: {log.read_text()[-3000:]}"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def free_ports(count: int) -> int:
    """The first of so many ports in a row that were free just now."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
        if port + count < 65536 and all(_is_free(port + more) for more in range(count)):
            return int(port)
    raise AssertionError(f"no {count} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) != 0


def python_libraries() -> str:
    """Folder of this Python's own libpython: Triton's helper would take the system's, of another version."""
    return str(sysconfig.get_config_var("LIBDIR") or "")
