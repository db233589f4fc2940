"""Buys images of a vendor in forked children, each killed at a random moment (for test_vendor_money).

python -m tests.helpers.killed_buyers ROOT URL KILLS SEED

The modules are imported once, so that a kill costs no more than what it interrupts. Prints one line of JSON:
how many children were killed, and how many came to an end before that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from tests.helpers.vendor_recipes import vendor_recipe, vendor_teacher
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.recipe import HttpRecipe

CONCURRENCY, BATCH = 4, 2


def recipe_of(url: str) -> HttpRecipe:
    """Of the buyers: requests of two images, four in flight."""
    image = {"size_px": 224}
    return vendor_recipe("openai", url, batch_size=BATCH, concurrency=CONCURRENCY, image=image, timeout_s=5.0)


def buy(root: Path, url: str, starts: Callable[[], object] = lambda: None) -> EmbeddingStore:
    """Buys all images below `root`; the store, which holds them then. `starts` is called before."""
    teacher, _ = vendor_teacher(root, recipe_of(url))
    pace = teacher._pacer.wait

    def wait(images: int, stop: threading.Event | None = None) -> None:
        starts()
        pace(images, stop)

    teacher._pacer.wait = wait  # type: ignore[method-assign]
    store = EmbeddingStore(root / "store", teacher)
    store.embed(sorted((root / "images").glob("*.png")))
    return store


def main(root: Path, url: str, kills: int, seed: int) -> None:
    drawn = random.Random(seed)
    killed = ended = 0
    while killed < kills and ended < kills:
        hears, tells = os.pipe()
        child = os.fork()
        if child == 0:
            buy(root, url, cache(partial(os.write, tells, b".")))
            os._exit(0)
        os.close(tells)
        os.read(hears, 1)  # the first request is about to go out, or the child has ended
        os.close(hears)
        time.sleep(drawn.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed, ended = killed + os.WIFSIGNALED(status), ended + (not os.WIFSIGNALED(status))
    print(json.dumps({"killed": killed, "ended": ended}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
