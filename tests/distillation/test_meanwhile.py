"""A vendor is asked about the test images while the student trains: same run, same bill, nothing lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.distillation.test_resume import interrupt_at, same_weights
from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.fake_vendor import FakeVendor, fake_vendor, pixels_sha256
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.distillation import single_run
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.train.loop import run_stage
from vl2v_deploy.errors import VendorError
from vl2v_deploy.models.ledger.ledger import Budget, Ledger
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.store.asked import read_asked
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.recipe import Recipe, load_recipe

TRAINED, TESTED = 2 * 15, 2 * 6 + 24  # of two sources and the target; 24 images in each domain


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path / "vendor", dimensions=16) as started:
        yield started


@pytest.fixture
def recipe(tmp_path: Path, vendor: FakeVendor) -> Recipe:
    file = write_vendor_recipe(
        tmp_path / "recipe", vendor.url("openai"), logit_scale=20.0, batch_size=4, concurrency=1
    )
    return load_recipe(file)


@contextmanager
def cache(folder: Path) -> Iterator[None]:
    """An own store and ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder))
        yield


def billed(vendor: FakeVendor) -> Counter[tuple[str, str]]:
    return Counter((item.kind, item.sha256) for item in vendor.bill())


def billed_images(vendor: FakeVendor, cache: Path) -> tuple[int, set[int]]:
    """How many images were billed, and how often each but for canaries, which every process asks again."""
    canaries = {pixels_sha256(Image.open(path).convert("RGB")) for path in cache.rglob("image-*.png")}
    counts = {sha256: count for (kind, sha256), count in billed(vendor).items() if kind == "image"}
    return len(counts), {count for sha256, count in counts.items() if sha256 not in canaries}


def asked() -> tuple[int, int]:
    """Hits and misses of the one teacher of this store."""
    [folder] = [path for path in store_root().iterdir() if path.is_dir()]
    return read_asked(folder)


@contextmanager
def asked_after_training(*_: Any) -> Iterator[Any]:
    yield lambda: None


def test_run_and_bill_are_those_of_asking_after_training(
    recipe: Recipe, vendor: FakeVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache(tmp_path / "after"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_run, "bought_meanwhile", asked_after_training)
        distill_recipe(recipe, tmp_path / "after_run")
        asked_after = asked()
    bill_after = billed(vendor)
    queries: list[int] = []
    store: list[EmbeddingStore] = []
    made = EmbeddingStore.__init__

    def remembered(self: EmbeddingStore, *arguments: Any) -> None:
        made(self, *arguments)
        store.append(self)

    def trained_when_all_is_bought(*arguments: Any) -> None:
        """The last step is not done before the last answer has come: they have to come meanwhile."""
        queries.append(store[0].queries)
        deadline = time.monotonic() + 60
        while store[0].queries < TRAINED + TESTED and time.monotonic() < deadline:
            time.sleep(0.01)
        queries.append(store[0].queries)
        run_stage(*arguments)

    monkeypatch.setattr(EmbeddingStore, "__init__", remembered)
    monkeypatch.setattr(single_run, "run_stage", trained_when_all_is_bought)
    with cache(tmp_path / "meanwhile"):
        distill_recipe(recipe, tmp_path / "run")
        assert asked() == asked_after
    assert len(store) == 1
    assert queries[0] >= TRAINED and queries[1] == TRAINED + TESTED
    assert same_weights(tmp_path / "run", tmp_path / "after_run")
    one, other = (read_record(tmp_path / name) for name in ("run", "after_run"))
    assert one.model_copy(update={"seconds": {}, "stages": {}}) == other.model_copy(
        update={"seconds": {}, "stages": {}}
    )
    assert one.teacher.queries == TRAINED + TESTED
    assert billed(vendor) == bill_after + bill_after


def test_an_interrupted_training_asks_nothing_more_and_loses_nothing(
    recipe: Recipe, vendor: FakeVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_from_here(*arguments: Any) -> None:
        vendor.control(latency_s=0.3)  # a request of four images
        run_stage(*arguments)

    with cache(tmp_path / "cache"):
        with monkeypatch.context() as patched:
            patched.setattr(single_run, "run_stage", slow_from_here)
            interrupt_at("align", 1, patched)
            with pytest.raises(KeyboardInterrupt):
                distill_recipe(recipe, tmp_path / "run")
        paid = billed_images(vendor, tmp_path / "cache")
        assert TRAINED <= paid[0] < TRAINED + TESTED
        time.sleep(1.0)
        assert billed_images(vendor, tmp_path / "cache") == paid
        vendor.control(latency_s=0.0)
        distill_recipe(recipe, tmp_path / "run", resume=True)
        [ledger] = (tmp_path / "cache" / "ledgers").glob("*.sqlite")
        states = {entry.state for entry in Ledger(ledger, Budget(None, None)).entries()}
    assert states == {"settled"}
    assert billed_images(vendor, tmp_path / "cache") == (TRAINED + TESTED, {1})  # nothing was paid twice


def test_a_refusal_meanwhile_is_told_when_the_student_is_trained(
    recipe: Recipe, vendor: FakeVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def refused_from_here(*arguments: Any) -> None:
        if not trained:
            vendor.control(faults={"forbidden": 1.0})
        run_stage(*arguments)
        trained.append(arguments[1].name)

    with cache(tmp_path / "cache"):
        with monkeypatch.context() as patched:
            patched.setattr(single_run, "run_stage", refused_from_here)
            vendor.control(latency_s=0.2)
            with pytest.raises(VendorError):
                distill_recipe(recipe, tmp_path / "run")
        assert trained == ["align", "distill"]
        vendor.control(faults={}, latency_s=0.0)
        with monkeypatch.context() as patched:  # the student is in the checkpoint: nothing is trained again
            patched.setattr(single_run, "run_stage", None)
            distill_recipe(recipe, tmp_path / "run", resume=True)
    assert read_record(tmp_path / "run").teacher.images == TRAINED + TESTED
    assert billed_images(vendor, tmp_path / "cache") == (TRAINED + TESTED, {1})


def test_a_teacher_on_this_machine_is_asked_when_training_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(tiny.write_recipe(tmp_path, make_domain_folder(tmp_path / "data")))
    order: list[str] = []
    embed = EmbeddingStore.embed_samples
    monkeypatch.setattr(
        EmbeddingStore, "embed_samples", lambda *given: order.append("asked") or embed(*given)
    )
    monkeypatch.setattr(single_run, "run_stage", lambda *given: order.append("trained") or run_stage(*given))
    with cache(tmp_path / "cache"):
        distill_recipe(recipe, tmp_path / "run")
    assert order == ["asked", "trained", "trained", "asked"]
