"""Freed memory stays with a training process: told by the page faults of taking it again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from vl2v_deploy.models.memory import SET_BY_USER

CODE = """
import resource, sys
import numpy as np
from vl2v_deploy.models.memory import keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(8_000_000)  # 64 MB, written and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
print(kept, faults(1), faults(10))
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def ask(how: str, **env: str) -> tuple[str, int, int]:
    """What keep_freed_memory said; page faults of taking a block once, and ten times more."""
    clean = {name: value for name, value in os.environ.items() if name not in SET_BY_USER}
    command = [sys.executable, "-c", CODE, how]
    said, once, again = subprocess.run(
        command, env=clean | env, capture_output=True, text=True, check=True
    ).stdout.split()
    return said, int(once), int(again)


@needs_glibc
def test_what_was_freed_is_taken_again_without_the_system() -> None:
    said, once, again = ask("keep")
    assert said == "True"
    assert again < once  # huge pages or small ones: ten times more cost less than the first time


@needs_glibc
def test_otherwise_every_block_is_fetched_anew() -> None:
    _, once, again = ask("leave")
    assert again > 5 * once


@needs_glibc
def test_what_a_user_has_set_is_left_alone() -> None:
    said, once, again = ask("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False"
    assert again > 5 * once
