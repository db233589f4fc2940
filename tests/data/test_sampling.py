from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.data import sampling
from vl2v_deploy.data.augment import Augment, adjust_colours, colour_draws, crop, view_draw
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.data.sampling import StepBatch, StepBatches, batch_indices, domain_rows
from vl2v_deploy.errors import ImageError, RecipeError
from vl2v_deploy.recipe import AugmentationRecipe, DataRecipe

ROWS = [np.arange(0, 10), np.arange(10, 17)]


def test_each_batch_holds_as_many_of_every_domain() -> None:
    for step in range(20):
        rows = batch_indices(ROWS, 4, seed=0, step=step)
        assert ((rows < 10).sum(), (rows >= 10).sum()) == (4, 4)


def test_an_epoch_sees_every_image_once() -> None:
    # 35 steps of 4 from 7 images are exactly 20 epochs of that domain, 14 of the one with 10
    seen = np.concatenate([batch_indices(ROWS, 4, seed=3, step=step) for step in range(35)])
    counts = np.bincount(seen, minlength=17)
    assert counts[10:].tolist() == [20] * 7
    assert counts[:10].tolist() == [14] * 10


def test_a_batch_depends_on_seed_and_step_only() -> None:
    assert np.array_equal(batch_indices(ROWS, 4, 1, 5), batch_indices(ROWS, 4, 1, 5))
    assert not np.array_equal(batch_indices(ROWS, 4, 1, 5), batch_indices(ROWS, 4, 2, 5))


def test_a_domain_smaller_than_its_share_repeats() -> None:
    rows = batch_indices([np.array([7, 8])], 5, seed=0, step=0)
    assert sorted(np.bincount(rows)[7:].tolist()) == [2, 3]


def stream(domain_folder: Path, **options: object) -> StepBatches:
    domain_set = load_domains(DataRecipe(root=str(domain_folder), target="photo"))
    samples = domain_set.select({"ink", "paint"}, "train")
    settings = {"seed": 5, "cache": ImageCache(10**7)} | options
    rows_of = domain_rows(samples, ("ink", "paint"))
    return StepBatches(samples, rows_of, 3, Augment(AugmentationRecipe(), 16), **settings)  # type: ignore[arg-type]


def same(one: StepBatch, other: StepBatch) -> bool:
    """Whether the steps show the same views of the same images, colours included."""
    return (
        torch.equal(one.rows, other.rows)
        and torch.equal(one.views, other.views)
        and torch.equal(one.images, other.images)
        and torch.equal(one.augmented("cpu"), other.augmented("cpu"))
    )


def test_workers_do_not_change_the_batches(domain_folder: Path) -> None:
    batches = stream(domain_folder)
    alone = list(batches.in_order(range(2, 15), workers=0))
    helped = list(stream(domain_folder, cache=ImageCache(0)).in_order(range(2, 15), workers=3))
    assert len(alone) == len(helped) == 13
    for one, other in zip(alone, helped, strict=True):
        assert same(one, other)
        assert one.rows.shape == one.views.shape == (6,)
        for images in (one.images, one.augmented("cpu")):
            assert images.shape == (6, 16, 16, 3)
            assert images.dtype == torch.uint8
    assert not torch.equal(alone[0].images, alone[0].augmented("cpu"))
    assert same(alone[3], batches.batch(5))
    assert not same(batches.batch(5), batches.batch(6))
    assert not same(batches.batch(5), replace(batches, seed=6).batch(5))


def test_steps_may_be_any_range(domain_folder: Path) -> None:
    batches = stream(domain_folder)
    for steps in (range(0), range(3, 4), range(1, 12, 5)):
        made = list(batches.in_order(steps, workers=2))
        assert len(made) == len(steps)
        assert all(same(one, batches.batch(step)) for one, step in zip(made, steps, strict=True))


@pytest.mark.parametrize("views", [0, 4])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_that_one_would_make(domain_folder: Path, world: int, views: int) -> None:
    batches = stream(domain_folder, views=views)
    whole, colours = batches.batch(7), batches.batch(7).augmented("cpu")
    for rank in range(world):
        shard = replace(batches, rank=rank, world=world).batch(7)
        mine = slice(rank, None, world)
        assert torch.equal(shard.rows, whole.rows[mine])
        assert torch.equal(shard.views, whole.views[mine])
        assert torch.equal(shard.images, whole.images[mine])
        assert torch.equal(shard.augmented("cpu"), colours[mine])


def test_more_processes_than_images_are_refused(domain_folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"batch_per_domain: 2 source domains x 3 = 6 .* by 7 processes"):
        stream(domain_folder, world=7)


def test_fixed_views_are_shown_again_and_again(domain_folder: Path) -> None:
    """K = 2: every picture of an image is one of two, and it is the one that `views` names."""
    batches = stream(domain_folder, views=2)
    shown: dict[tuple[int, int], set[bytes]] = {}
    for batch in batches.in_order(range(60), workers=2):
        for row, view, pixels in zip(batch.rows, batch.views, batch.augmented("cpu"), strict=True):
            shown.setdefault((int(row), int(view)), set()).add(pixels.numpy().tobytes())
    assert shown.keys() == {(row, view) for row in range(len(batches.samples)) for view in range(2)}
    assert all(len(pictures) == 1 for pictures in shown.values())
    row, view = 3, 1
    sample = batches.samples[row]
    image = Image.open(sample.path)
    draw = view_draw(AugmentationRecipe(), sample.sha256, view, image.width, image.height)
    pixels = torch.from_numpy(crop(image, draw, 16).copy())[None]
    assert shown[row, view] == {adjust_colours(pixels, colour_draws([draw])).numpy().tobytes()}


def test_fresh_draws_hardly_ever_repeat(domain_folder: Path) -> None:
    batches = stream(domain_folder)
    shown = [
        pixels.numpy().tobytes()
        for batch in map(batches.batch, range(20))
        for pixels in batch.augmented("cpu")
    ]
    assert len(set(shown)) == len(shown)
    assert not batches.batch(0).views.any()


def test_threads_end_when_nobody_wants_more(domain_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed after the first batch, each thread leaves its batch, 3 x 2 images, with the image it is at."""
    first = stream(domain_folder)
    held = HeldCache({first.samples[row].path for row in first.batch(0).rows})
    monkeypatch.setattr(sampling, "threading", SimpleNamespace(Event=lambda: OpeningEvent(held.gate)))
    before = set(threading.enumerate())
    batches = stream(domain_folder, cache=held).in_order(range(1000), workers=4)
    next(batches)
    assert len(set(threading.enumerate()) - before) == 4
    for _ in range(4):
        assert held.waits.acquire(timeout=60)
    asked = len(held.asked)
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
    assert len(held.asked) == asked


class HeldCache(ImageCache):
    """Whoever asks for an image that is not `free` has to wait, until the stream wants to stop.

    asked: every image that somebody asked for
    waits: one permit for each thread that came to wait
    """

    def __init__(self, free: set[Path]) -> None:
        super().__init__(0)
        self.free, self.gate = free, threading.Event()
        self.asked: list[Path] = []
        self.waits = threading.Semaphore(0)

    def get(self, path: Path) -> Pixels:
        self.asked.append(path)
        if path not in self.free and not self.gate.is_set():
            self.waits.release()
            self.gate.wait()
        return super().get(path)


class OpeningEvent(threading.Event):
    """An event that opens a gate, too, when it is set."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def set(self) -> None:
        super().set()
        self.gate.set()


def test_an_image_that_went_away_is_named(domain_folder: Path) -> None:
    batches = stream(domain_folder)
    batches.samples[0].path.unlink()
    with pytest.raises(ImageError, match=r"0\.png"):
        list(batches.in_order(range(10), workers=2))
