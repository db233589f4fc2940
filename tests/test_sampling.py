from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vl2v_deploy.data.augment import Augment, crop_box
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.sampling import StepBatches, batch_indices, domain_rows
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


def test_crop_box_stays_inside_and_keeps_its_area() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        left, top, width, height = crop_box(120, 80, 0.7, rng)
        assert left >= 0 and top >= 0
        assert left + width <= 120 + 1e-9 and top + height <= 80 + 1e-9
        assert 0.7 - 1e-9 <= width * height / (120 * 80) <= 1 + 1e-9


def test_no_augmentation_is_a_plain_resize() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    off = AugmentationRecipe(
        crop_scale_min=1.0, horizontal_flip=0, colour_jitter=0, hue_jitter=0, grayscale=0
    )
    for seed in range(20):  # a draw that does not fit falls back to the whole image
        pixels = Augment(off, 32)(image, np.random.default_rng(seed))
        assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        (
            {"grayscale": 1.0},
            lambda px: (px[..., 0] == px[..., 1]).all() and (px[..., 1] == px[..., 2]).all(),
        ),
        ({"colour_jitter": 1.0}, lambda px: px.mean() != 0),
    ],
)
def test_each_augmentation_does_what_it_says(settings: dict[str, float], check: object) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    off = {"crop_scale_min": 1.0, "horizontal_flip": 0, "colour_jitter": 0, "hue_jitter": 0, "grayscale": 0}
    pixels = Augment(AugmentationRecipe.model_validate(off | settings), 32)(image, np.random.default_rng(1))
    assert check(pixels)  # type: ignore[operator]
    assert not np.array_equal(pixels, np.asarray(image))


def test_workers_do_not_change_the_batches(domain_folder: Path) -> None:
    domain_set = load_domains(DataRecipe(root=str(domain_folder), target="photo"))
    samples = domain_set.select({"ink", "paint"}, "train")
    rows_of = domain_rows(samples, ("ink", "paint"))
    batches = StepBatches(samples, rows_of, 3, Augment(AugmentationRecipe(), 16), seed=5)
    alone = list(batches.in_order(range(2, 15), workers=0))
    helped = list(batches.in_order(range(2, 15), workers=3))
    assert len(alone) == 13
    for (rows, images), (other_rows, other_images) in zip(alone, helped, strict=True):
        assert torch.equal(rows, other_rows)
        assert torch.equal(images, other_images)
        assert images.shape == (6, 16, 16, 3)
        assert images.dtype == torch.uint8
