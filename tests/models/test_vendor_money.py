"""Money is never lost: what a vendor billed is in the ledger, and what it answered is in the store.

The fake vendor keeps a bill of its own, on disk before it answers.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.fake_vendor import FakeVendor, fake_vendor, pixels_sha256
from tests.helpers.fake_vendor.vectors import image_embedding, text_embedding
from tests.helpers.killed_buyers import BATCH, CONCURRENCY, buy, recipe_of
from tests.helpers.vendor_recipes import KEY_ENV, vendor_recipe, vendor_teacher
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import BudgetError, ModelError, VendorError
from vl2v_deploy.models.ledger.ledger import Budget, Ledger
from vl2v_deploy.models.store.asked import read_asked
from vl2v_deploy.models.store.canaries import CANARIES
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.teacher.http import asking
from vl2v_deploy.recipe import AugmentationRecipe
from vl2v_deploy.recipe.vendors import BudgetRecipe
from vl2v_deploy.signals import Interrupted, ended_by_signals


def make_images(folder: Path, count: int) -> list[Path]:
    """Larger than a canary, so that the bill tells them apart."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((85, 68), 0).save(folder / f"{number:04d}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path / "vendor", dimensions=16) as started:
        yield started


def ledger_sums(root: Path) -> Counter[str]:
    """Images and texts of each state."""
    found: Counter[str] = Counter()
    for entry in Ledger(root / "ledger.sqlite", Budget(None, None)).entries():
        found[entry.state] += entry.images + entry.texts
    return found


def billed_images(vendor: FakeVendor, root: Path) -> Counter[str]:
    """How often each image was billed, canaries left out."""
    canaries = {
        pixels_sha256(Image.open(path).convert("RGB")) for path in (root / "store").rglob("image-*.png")
    }
    return Counter(item.sha256 for item in vendor.bill() if item.sha256 not in canaries)


def assert_all_held(vendor: FakeVendor, root: Path, paths: list[Path]) -> None:
    """Every image is held, and right, and asking again sends nothing."""
    before = len(vendor.bill())
    teacher, _ = vendor_teacher(root, recipe_of(vendor.url("openai")))
    store = EmbeddingStore(root / "store", teacher)
    rows = store.embed(paths)
    assert len(vendor.bill()) == before and store.queries == 0
    for path, row in zip(paths, rows, strict=True):
        with Image.open(path) as image:
            expected = torch.from_numpy(np.asarray(image_embedding(image.convert("RGB"), 16)))
        assert torch.allclose(row, expected.float(), atol=1e-5)


def assert_ledger_is_true(
    vendor: FakeVendor, root: Path, paths: list[Path], *, spoiled: bool = False
) -> Counter[str]:
    """settled <= bill <= settled + unknown, and twice only what is unknown; the ledger's sums.

    spoiled: answers came that no client may use: they were paid for, and asked about again
    """
    sums, bill = ledger_sums(root), len(vendor.bill())
    assert sums["reserved"] == 0
    assert sums["settled"] <= bill <= sums["settled"] + sums["unknown"]
    images = billed_images(vendor, root)
    assert len(images) == len(paths)
    assert spoiled or images.total() - len(images) <= sums["unknown"]
    return sums


def test_vendor_signals_keep_all_that_was_paid(tmp_path: Path, vendor: FakeVendor) -> None:
    paths = make_images(tmp_path / "images", 60)
    vendor.control(latency_s=0.1)
    requests: list[None] = []

    def starts() -> None:
        requests.append(None)
        if len(requests) == 15:  # some are for canaries
            signal.raise_signal(signal.SIGTERM)  # the main thread hears of it

    with pytest.raises(Interrupted), ended_by_signals():
        buy(tmp_path, vendor.url("openai"), starts)
    sums = ledger_sums(tmp_path)
    assert sums["settled"] == len(vendor.bill()) and not sums["unknown"] and not sums["reserved"]
    assert 0 < billed_images(vendor, tmp_path).total() < len(paths)
    vendor.control(latency_s=0.0)
    buy(tmp_path, vendor.url("openai"))
    assert set(billed_images(vendor, tmp_path).values()) == {1}
    assert_all_held(vendor, tmp_path, paths)


@pytest.mark.slow
def test_vendor_60_kills_lose_nothing_and_pay_twice_only_what_was_in_flight(
    tmp_path: Path, vendor: FakeVendor
) -> None:
    kills = 60
    paths = make_images(tmp_path / "images", 1000)
    vendor.control(latency_s=0.05)
    url = vendor.url("openai")
    command = [sys.executable, "-m", "tests.helpers.killed_buyers", str(tmp_path), url, str(kills), "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(result.stdout)["killed"] == kills, result.stdout
    vendor.control(latency_s=0.0)
    buy(tmp_path, url)
    sums = assert_ledger_is_true(vendor, tmp_path, paths)
    assert 0 < sums["unknown"] <= kills * CONCURRENCY * BATCH
    assert_all_held(vendor, tmp_path, paths)
    assert not list((tmp_path / "store").rglob("*.journal"))


def test_vendor_bill_equals_the_ledger_through_faults(
    tmp_path: Path, vendor: FakeVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "delay_s", lambda _: 0.01)
    paths = make_images(tmp_path / "images", 300)
    storm = ["rate_limited"] * 5
    for how in ("seconds", "none"):
        vendor.control(
            retry_after=how,
            retry_after_s=0.05,
            script=storm,
            faults={
                "garbage": 0.05,
                "cut_before": 0.02,
                "cut_after": 0.02,
                "nan": 0.02,
                "server_error": 0.02,
            },
        )
        with_half = paths[:150] if how == "seconds" else paths
        teacher, _ = vendor_teacher(tmp_path, recipe_of(vendor.url("openai")))
        EmbeddingStore(tmp_path / "store", teacher).embed(with_half)
    sums = assert_ledger_is_true(vendor, tmp_path, paths, spoiled=True)
    assert sums["unknown"] > 0  # connections were cut
    vendor.control(faults={}, script=[])
    assert_all_held(vendor, tmp_path, paths)


def test_vendor_answers_after_the_time_out_are_possibly_paid(tmp_path: Path, vendor: FakeVendor) -> None:
    paths = make_images(tmp_path / "images", 8)
    teacher, _ = vendor_teacher(
        tmp_path, recipe_of(vendor.url("openai")).model_copy(update={"timeout_s": 0.5})
    )
    vendor.control(script=["none"] * 4 + ["late"], late_s=1.5)
    EmbeddingStore(tmp_path / "store", teacher).embed(paths)
    sums, bill = ledger_sums(tmp_path), vendor.bill()
    assert sums["unknown"] == BATCH and len(bill) == sums.total()
    assert_all_held(vendor, tmp_path, paths)


def test_vendor_bill_equals_what_is_settled_where_nothing_fails(tmp_path: Path, vendor: FakeVendor) -> None:
    paths = make_images(tmp_path / "images", 100)
    stores = [
        EmbeddingStore(tmp_path / "store", vendor_teacher(tmp_path, recipe_of(vendor.url("openai")))[0])
        for _ in range(2)
    ]
    threads = [threading.Thread(target=store.embed, args=(paths,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger_sums(tmp_path) == {"settled": len(vendor.bill())}
    assert set(billed_images(vendor, tmp_path).values()) == {1}
    assert sum(store.queries for store in stores) == 100
    assert_all_held(vendor, tmp_path, paths)


def test_vendor_budget_is_not_passed_and_going_on_pays_nothing_twice(
    tmp_path: Path, vendor: FakeVendor
) -> None:
    paths = make_images(tmp_path / "images", 60)
    budget = BudgetRecipe(max_queries=50)
    recipe = recipe_of(vendor.url("openai")).model_copy(update={"budget": budget})
    teacher, _ = vendor_teacher(tmp_path, recipe)
    store = EmbeddingStore(tmp_path / "store", teacher)
    with pytest.raises(BudgetError) as caught:
        store.embed(paths)
    assert "\n" not in str(caught.value)
    # Images that were read ahead and never sent are none that were paid for.
    assert read_asked(store.folder) == (0, store.queries) == (0, billed_images(vendor, tmp_path).total())
    assert len(vendor.bill()) == ledger_sums(tmp_path).total() == 50
    buy(tmp_path, vendor.url("openai"))
    assert set(billed_images(vendor, tmp_path).values()) == {1}
    assert_all_held(vendor, tmp_path, paths)


def test_vendor_full_disk_stops_before_more_is_asked(tmp_path: Path, vendor: FakeVendor) -> None:
    """The limit on a file's size stands for a full disk: the system refuses the space in the same call."""
    paths = make_images(tmp_path / "images", 300)
    teacher, _ = vendor_teacher(tmp_path, recipe_of(vendor.url("openai")))
    store = EmbeddingStore(tmp_path / "store", teacher)
    store.embed(paths[:2])
    before = len(vendor.bill())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ModelError, match=r"cannot be kept .* so no more is asked") as caught:
            store.embed(paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert len(vendor.bill()) == before
    store.embed(paths)
    assert_ledger_is_true(vendor, tmp_path, paths)
    assert_all_held(vendor, tmp_path, paths)


def test_vendor_texts_are_bought_once(tmp_path: Path, vendor: FakeVendor) -> None:
    prompts = [["a red dog", "a dog"], ["a cat", "a dog"]]
    for run in range(2):
        teacher, _ = vendor_teacher(tmp_path, vendor_recipe("openai", vendor.url("openai")))
        store = EmbeddingStore(tmp_path / "store", teacher)
        classifier = store.prompt_classifier(prompts)
        assert classifier.shape == (2, 16) and store.queries == 0
        if run == 0:
            bought = len(vendor.bill())
            assert bought == 2 * 3  # the texts, and as canaries
            first = torch.from_numpy(np.asarray(text_embedding("a cat", 16))).float()
            assert torch.allclose(store.embed_texts(["a cat"])[0], first, atol=1e-5)
    assert len(vendor.bill()) == bought


@pytest.mark.parametrize(
    "changes", [{"moved": 0.1}, {"model_version": "2"}], ids=["moved", "another version"]
)
def test_vendor_model_that_moved_is_refused_before_anything_is_bought(
    tmp_path: Path, vendor: FakeVendor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    api = "openai" if "moved" in changes else "azure"
    paths = make_images(tmp_path / "images", 40)

    def store() -> EmbeddingStore:
        teacher, _ = vendor_teacher(tmp_path, vendor_recipe(api, vendor.url(api)))
        return EmbeddingStore(tmp_path / "store", teacher)

    monkeypatch.setenv(KEY_ENV, "key")
    first = store()
    first.embed(paths[:20])
    first.embed(paths[:25])  # the same purchase: no canaries between
    assert len(vendor.bill()) == 25 + CANARIES
    store().embed(paths[:30])
    assert len(vendor.bill()) == 30 + 2 * CANARIES
    vendor.control(**changes)
    moved = store()
    moved.embed(paths[:30])  # held: nothing is asked
    with pytest.raises(ModelError, match="another model now") as caught:
        moved.embed(paths)
    assert ("0.99" in str(caught.value)) == ("moved" in changes)
    assert len(vendor.bill()) == 30 + 3 * CANARIES and moved.queries == 0


def test_vendor_views_are_bought_once(tmp_path: Path, vendor: FakeVendor) -> None:
    samples = [
        Sample(path, "d", 0, str(path), "train", sha256(path.read_bytes()).hexdigest())
        for path in make_images(tmp_path / "images", 6)
    ]
    augmentation = AugmentationRecipe(grayscale=0.2)

    def embedded(views: int) -> tuple[torch.Tensor, int]:
        teacher, _ = vendor_teacher(tmp_path, recipe_of(vendor.url("openai")))
        store = EmbeddingStore(tmp_path / "store", teacher)
        return store.embed_views(samples, augmentation, views), store.queries

    rows, queries = embedded(2)
    assert rows.shape == (6, 2, 16) and queries == 12
    assert (rows[:, 0] - rows[:, 1]).norm(dim=1).min() > 1e-3  # no view stands for another
    bought = len(vendor.bill())
    assert bought == 12 + 12  # the canaries are the first 16 of what is bought: all of it
    again, queries = embedded(2)
    assert torch.equal(again, rows) and queries == 0 and len(vendor.bill()) == bought
    more, queries = embedded(3)
    assert torch.equal(more[:, :2], rows) and queries == 6
    assert len(vendor.bill()) == bought + 12 + 6  # the canaries once more, then the third views


@pytest.mark.parametrize("batch_size", [1, 4])
def test_vendor_refusal_names_the_files_of_its_request(
    tmp_path: Path, vendor: FakeVendor, batch_size: int
) -> None:
    paths = make_images(tmp_path / "images", 24)
    recipe = vendor_recipe("openai", vendor.url("openai"), batch_size=batch_size, concurrency=1)
    teacher, _ = vendor_teacher(tmp_path, recipe)
    store = EmbeddingStore(tmp_path / "store", teacher)
    store.embed(paths[:3])
    held = {item.sha256 for item in vendor.bill()}
    vendor.control(script=["none"] * 2 + ["bad_request"])
    with pytest.raises(VendorError, match=r"\.png") as caught:
        store.embed(paths)
    named = {path for path in paths if str(path) in str(caught.value)}
    assert len(named) == batch_size and "\n" not in str(caught.value)
    assert ("teacher.batch_size=1" in str(caught.value)) == (batch_size > 1)
    store.embed([path for path in paths if path not in named])
    before = len(vendor.bill())
    store.embed(paths)  # those that were named, and no other, are missing
    bought = Counter(item.sha256 for item in vendor.bill()[before:])
    assert len(bought) == batch_size and not bought.keys() & held
