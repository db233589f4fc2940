"""Folders that are made once a test run, whichever of its processes first asks for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def run_root(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole test run, above those of pytest-xdist's workers."""
    root = factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this test run, filled by make(folder) if nobody has; others wait meanwhile.

    Tests only read in it: what they change belongs to all. A folder whose making failed is made anew.
    """
    root = run_root(factory)
    folder, done = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
