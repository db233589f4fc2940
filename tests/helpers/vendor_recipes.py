"""Recipe sections of teachers behind an API, and such teachers with a ledger of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from vl2v_deploy.models.ledger.ledger import Budget, Ledger
from vl2v_deploy.models.ledger.pacer import Pacer
from vl2v_deploy.models.teacher.http import HttpTeacher
from vl2v_deploy.recipe import HttpRecipe
from vl2v_deploy.recipe.vendors import NEEDS_KEY

KEY_ENV = "VENDOR_TEST_KEY"
KEY = "sk-very-secret-0123456789"
ONE_ITEM = ("vllm", "azure", "titan")


def vendor_recipe(api: str, url: str = "http://vendor.test", **more: Any) -> HttpRecipe:
    """D = 16, 32 px, one dollar for 1,000 images; with a key where the API wants one."""
    tree = {
        "kind": "http",
        "api": api,
        "url": url,
        "model": "2023-04-15" if api == "azure" else "clip",
        "key_env": KEY_ENV if api in NEEDS_KEY else None,
        "dimensions": 16,
        "image": {"size_px": 32},
        "batch_size": 1 if api in ONE_ITEM else 4,
        "usd_per_1k_images": 1.0,
        "usd_per_1k_texts": 0.5,
        "terms": {"url": "https://vendor.test/terms", "read_on": "2026-11-28", "permits": "internal"},
    }
    return HttpRecipe.model_validate(tree | more)


def vendor_teacher(
    folder: Path, recipe: HttpRecipe, over: httpx.BaseTransport | None = None
) -> tuple[HttpTeacher, Ledger]:
    """A teacher whose ledger and pace are in `folder`; over: what answers instead of the network."""
    ledger = Ledger(folder / "ledger.sqlite", Budget(recipe.budget.max_usd, recipe.budget.max_queries))
    pacer = Pacer(
        folder / "ledger.pace",
        requests_per_minute=recipe.requests_per_minute,
        images_per_minute=recipe.images_per_minute,
    )
    return HttpTeacher(recipe, ledger, pacer, over=over), ledger


def billed(ledger: Ledger) -> tuple[int, int]:
    """Images and texts that were paid for, or may have been."""
    entries = ledger.entries()
    return sum(entry.images for entry in entries), sum(entry.texts for entry in entries)
