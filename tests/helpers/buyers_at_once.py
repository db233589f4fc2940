"""Buys the same images of a vendor in several processes at once (for test_vendor_together).

python -m tests.helpers.buyers_at_once ROOT URL BUYERS MAX_QUERIES IMAGES_PER_MINUTE

The modules are imported once, then the buyers are forked and let go together. Prints one line of JSON: of
each buyer whether its budget was spent, and how many images it sent.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from tests.helpers.killed_buyers import recipe_of
from tests.helpers.vendor_recipes import vendor_teacher
from vl2v_deploy.errors import BudgetError
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.recipe.vendors import BudgetRecipe


def buy(root: Path, url: str, max_queries: int, images_per_minute: float) -> tuple[bool, int]:
    """Whether the budget was spent, and how many images were sent."""
    budget = BudgetRecipe(max_queries=max_queries)
    limits = {"budget": budget, "images_per_minute": images_per_minute}
    teacher, _ = vendor_teacher(root, recipe_of(url).model_copy(update=limits))
    store = EmbeddingStore(root / "store", teacher)
    try:
        store.embed(sorted((root / "images").glob("*.png")))
    except BudgetError:
        return True, store.queries
    return False, store.queries


def main(root: Path, url: str, buyers: int, max_queries: int, images_per_minute: float) -> None:
    waits, starts = os.pipe()
    hears, tells = os.pipe()
    children = []
    for _ in range(buyers):
        child = os.fork()
        if child == 0:
            try:
                os.close(starts)
                os.read(waits, 1)
                said = json.dumps(buy(root, url, max_queries, images_per_minute))
                os.write(tells, f"{said}\n".encode())  # one write: lines do not mix
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    os.close(starts)  # all go
    os.close(tells)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * buyers
    with os.fdopen(hears) as file:
        print(json.dumps([json.loads(line) for line in file]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
