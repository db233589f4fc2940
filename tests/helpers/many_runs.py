"""The command line in a process of its own, a tiny recipe for it, and waiting for what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from vl2v_deploy.folders import partial_of


def vl2v(*words: str | Path, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`vl2v-deploy WORDS` with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vl2v_deploy", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(cache)} | env,
    )


def tiny_recipe(folder: Path) -> Path:
    """A recipe that trains in seconds, in a new folder with its data."""
    folder.mkdir()
    return tiny.write_recipe(folder, make_domain_folder(folder / "data"))


def wait_until(there: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Wait for a condition; fails with what was waited for."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def metrics_so_far(run: Path) -> str:
    """What a run that is being made has measured: with seconds, so that no other run has the same."""
    file = partial_of(run) / "metrics.jsonl"
    return file.read_text() if file.is_file() else ""


def processes_of(*words: str) -> list[int]:
    """The processes whose command line holds all words, this one left out."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if all(word in line for word in words) and int(file.parent.name) != os.getpid():
            found.append(int(file.parent.name))
    return found
