"""Small things that many tests share; no network anywhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.made_once import made_once

os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does so to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """A test that sets torch's threads must not change what later ones compute: sums depend on them."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def domain_folder(tmp_path: Path) -> Path:
    """root/domain/class/image: 3 domains, 2 classes, 10 images each, every image different."""
    return make_domain_folder(tmp_path / "data")


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's own commands were run: runs/quickstart, bundles/quickstart, reports/quickstart."""
    from tests.helpers.quickstart import make_quickstart  # torch and its friends, which few tests need

    return made_once(tmp_path_factory, "quickstart", make_quickstart)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    """Threads that call a MicroBatcher."""
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def no_batcher_thread_left() -> Iterator[None]:
    """No test leaves a thread of a MicroBatcher behind."""
    from tests.helpers.micro_batching import our_threads  # the client, which many tests do without

    yield
    assert our_threads() == []
