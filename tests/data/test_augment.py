from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from vl2v_deploy.data.augment import (
    Draw,
    adjust_colours,
    colour_draws,
    crop,
    crop_box,
    draw_augmentation,
    view_draw,
)
from vl2v_deploy.recipe import AugmentationRecipe

OFF = AugmentationRecipe(crop_scale_min=1.0, horizontal_flip=0, colour_jitter=0, hue_jitter=0, grayscale=0)
SHA = "ab" * 32


def pictures(count: int, size: int = 24) -> Tensor:
    """Images with smooth parts, noise, greys, and saturated colours; uint8 (B, S, S, 3)."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        made.append(np.asarray(image if number % 5 else image.convert("L").convert("RGB")).copy())
        made[-1][:4] = rng.choice([0, 255], (4, size, 3))
        made[-1][4:8] = rng.integers(0, 256, (4, size, 3))
    return torch.from_numpy(np.stack(made))


def draws_of(recipe: AugmentationRecipe, count: int, seed: int = 0) -> list[Draw]:
    rng = np.random.default_rng(seed)
    return [draw_augmentation(recipe, 24, 24, rng) for _ in range(count)]


def torchvision_colours(image: Tensor, draw: Draw) -> Tensor:
    """The draw's operations by torchvision, in float; (S, S, 3) in [0, 255]."""
    pixels = image.permute(2, 0, 1).float() / 255
    adjust = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)
    for operation in draw.order:
        if operation == 3:
            pixels = reference.adjust_hue(pixels, draw.hue)
        else:
            pixels = adjust[operation](pixels, draw.factors[operation])
    if draw.gray:
        pixels = reference.rgb_to_grayscale(pixels, num_output_channels=3)
    return pixels.permute(1, 2, 0) * 255


def off_by(images: Tensor, draws: Sequence[Draw]) -> Tensor:
    expected = torch.stack([torchvision_colours(i, d) for i, d in zip(images, draws, strict=True)])
    return (adjust_colours(images, colour_draws(draws)).float() - expected).abs()


@pytest.mark.parametrize(
    "strength", [{}, {"colour_jitter": 1.0, "hue_jitter": 0.5, "grayscale": 0.5}], ids=["paper", "extreme"]
)
def test_colours_are_torchvisions(strength: dict[str, float]) -> None:
    images, recipe = pictures(60), AugmentationRecipe.model_validate(strength)
    off = off_by(images, draws_of(recipe, 60))
    # Rounding alone is half a level. Where two channels tie, rounding errors choose the hue's sector.
    assert (off <= 0.501).float().mean() > 0.999
    assert off.max() <= 2


def test_every_order_of_the_operations_is_its_own() -> None:
    image = pictures(2)[1]
    draws = [
        Draw((0, 0, 1, 1), False, (1.3, 0.7, 1.6), 0.2, order, gray=False)  # type: ignore[arg-type]
        for order in permutations(range(4))
    ]
    images = image.expand(24, -1, -1, -1)
    assert off_by(images, draws).max() <= 0.501
    changed = adjust_colours(images, colour_draws(draws))
    assert len({pixels.numpy().tobytes() for pixels in changed}) > 12  # so the orders do differ


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, draws = pictures(20), draws_of(AugmentationRecipe(grayscale=0.3), 20)
    before = images.clone()
    together = adjust_colours(images, colour_draws(draws))
    assert torch.equal(images, before)
    for row, draw in enumerate(draws):
        assert torch.equal(adjust_colours(images[row : row + 1], colour_draws([draw]))[0], together[row])


@pytest.mark.parametrize("recipe", [OFF, OFF.model_copy(update={"horizontal_flip": 1.0})])
def test_no_colours_drawn_leaves_every_bit(recipe: AugmentationRecipe) -> None:
    images, colours = pictures(6), colour_draws(draws_of(recipe, 6))
    assert colours.hue is None
    assert torch.equal(adjust_colours(images, colours), images)


def test_a_draw_is_one_generators_and_a_view_one_contents() -> None:
    recipe = AugmentationRecipe()
    assert draws_of(recipe, 3) == draws_of(recipe, 3)
    views = [view_draw(recipe, SHA, view, 30, 20) for view in range(5)]
    assert views == [view_draw(recipe, SHA, view, 30, 20) for view in range(5)]
    assert len(set(views)) == 5
    assert views[0] not in {view_draw(recipe, "cd" * 32, view, 30, 20) for view in range(5)}
    assert view_draw(OFF, SHA, 0, 30, 20) == replace(
        view_draw(OFF, SHA, 1, 30, 20), order=view_draw(OFF, SHA, 0, 30, 20).order
    )


def test_draws_keep_to_the_recipes_ranges() -> None:
    recipe = AugmentationRecipe(crop_scale_min=0.5, colour_jitter=0.4, hue_jitter=0.1, grayscale=0.25)
    draws = draws_of(recipe, 2000)
    factors = np.array([draw.factors for draw in draws])
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4
    assert np.abs([draw.hue for draw in draws]).max() <= 0.1
    assert abs(np.mean([draw.gray for draw in draws]) - 0.25) < 0.05
    assert abs(np.mean([draw.flip for draw in draws]) - 0.5) < 0.05
    assert len({draw.order for draw in draws}) == 24
    shares = np.array([draw.box[2] * draw.box[3] for draw in draws])
    assert shares.min() >= 0.5 - 1e-9 and shares.max() <= 1 + 1e-9


def test_crop_box_stays_inside_and_keeps_its_area() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        left, top, width, height = crop_box(120, 80, 0.7, rng)
        assert left >= 0 and top >= 0
        assert left + width <= 120 + 1e-9 and top + height <= 80 + 1e-9
        assert 0.7 - 1e-9 <= width * height / (120 * 80) <= 1 + 1e-9


def test_a_crop_shows_its_box_squashed_to_a_square_and_flipped() -> None:
    # red rises from left to right, green from top to bottom
    across, down = np.meshgrid(np.arange(160), np.arange(80))
    image = Image.fromarray(np.stack([across, down * 2, 0 * down], axis=-1).astype(np.uint8))
    draw = Draw((0.25, 0.5, 0.5, 0.25), False, (1, 1, 1), 0.0, (0, 1, 2, 3), gray=False)
    pixels = crop(image, draw, 10).astype(float)
    centres = (np.arange(10) + 0.5) / 10
    assert np.abs(pixels[..., 0] - (160 * (0.25 + 0.5 * centres) - 0.5)).max() <= 1
    assert np.abs(pixels[..., 1] - 2 * (80 * (0.5 + 0.25 * centres) - 0.5)[:, None]).max() <= 1
    flipped = crop(image, replace(draw, flip=True), 10)
    assert np.array_equal(flipped, crop(image, draw, 10)[:, ::-1])
    for seed in range(200):  # rounding errors never leave the image
        crop(image, draw_augmentation(AugmentationRecipe(), 160, 80, np.random.default_rng(seed)), 4)


def test_no_augmentation_is_a_plain_resize() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for seed in range(20):  # a draw that does not fit falls back to the whole image
        draw = draw_augmentation(OFF, 32, 32, np.random.default_rng(seed))
        assert np.array_equal(crop(image, draw, 32), np.asarray(image))


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (320, 180), (180, 320), (101, 100), (64, 64)])
def test_a_crop_that_ten_draws_do_not_fit_is_torchvisions(size: tuple[int, int]) -> None:
    width, height = size

    class NeverFits:
        def uniform(self, low: object, high: object) -> object:
            return 2.0 if high == 1.0 else low

    found = crop_box(width, height, 0.7, NeverFits())  # type: ignore[arg-type]
    impossible = [1e6, 1e6]  # of an area that no draw fits, torchvision takes its fallback
    image = torch.zeros(3, height, width)
    top, left, crop_height, crop_width = RandomResizedCrop.get_params(image, impossible, [3 / 4, 4 / 3])
    np.testing.assert_allclose(found, (left, top, crop_width, crop_height), atol=1)  # theirs are whole pixels
    ratio = found[2] / found[3]
    assert 3 / 4 - 1e-9 <= ratio <= 4 / 3 + 1e-9


def test_most_draws_of_a_wide_image_are_cut_and_not_squashed() -> None:
    boxes = [crop_box(1600, 900, 0.7, np.random.default_rng(seed)) for seed in range(300)]
    ratios = np.array([width / height for _, _, width, height in boxes])
    assert ratios.max() <= 4 / 3 + 1e-9
    assert np.mean(np.isclose(ratios, 4 / 3)) > 0.8


def test_a_scale_of_one_is_no_crop() -> None:
    assert crop_box(300, 100, 1.0, np.random.default_rng(0)) == (0, 0, 300, 100)
