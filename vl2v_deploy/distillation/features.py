"""Outputs of a model for whole image sets, not augmented, in batches divided among the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vl2v_deploy.bars import tracked
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.data.augment import Draw, adjust_colours, colour_draws, crop, view_draw
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.models.batches import in_full_batch
from vl2v_deploy.recipe import AugmentationRecipe

BATCH_SIZE = 64


@torch.no_grad()
def compute_batched(
    compute: Callable[[Tensor], Tensor],
    paths: Sequence[Path],
    size_px: int,
    device: torch.device,
    cache: ImageCache,
    world: World,
    description: str = "",
) -> Tensor:
    """`compute` of every image, preprocessed as the client does it; (N, ...) float32 on the CPU.

    compute:     uint8 (B, S, S, 3) on `device` -> (B, ...), such as Student.features
    size_px:     S
    description: of the progress bar; empty = none
    """
    mine = [paths[row] for row in world.mine(len(paths))]
    batches = tracked(
        pixel_batches(mine, size_px, cache),
        description,
        total=-(-len(mine) // BATCH_SIZE),
        disable=not description or not world.is_first,
    )
    answers = [in_full_batch(compute, pixels.to(device), BATCH_SIZE) for pixels in batches]
    if not answers:  # more processes than images: the shape is not known without one
        [pixels] = pixel_batches(paths[:1], size_px, cache)
        answers = [in_full_batch(compute, pixels.to(device), BATCH_SIZE)[:0]]
    return world.gather(torch.cat(answers), len(paths))


def pixel_batches(paths: Sequence[Path], size_px: int, cache: ImageCache) -> Iterator[Tensor]:
    """The images as the student takes them, decoded in parallel; uint8 (B, S, S, 3) each."""

    def pixels(path: Path) -> Pixels:
        return cache.square(path, size_px)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), BATCH_SIZE):
            chunk = paths[start : start + BATCH_SIZE]
            yield torch.from_numpy(np.stack(list(pool.map(pixels, chunk))))


def view_pixels(
    samples: Sequence[Sample], augmentation: AugmentationRecipe, view: int, size_px: int, cache: ImageCache
) -> Tensor:
    """One fixed augmented view of each image, as the teacher was shown it; uint8 (B, S, S, 3).

    view: its number, from 0
    """

    def drawn(sample: Sample) -> tuple[Pixels, Draw]:
        image = Image.fromarray(cache.get(sample.path))
        draw = view_draw(augmentation, sample.sha256, view, image.width, image.height)
        return crop(image, draw, size_px), draw

    with ThreadPoolExecutor() as pool:
        crops, draws = zip(*pool.map(drawn, samples), strict=True)
    return adjust_colours(torch.from_numpy(np.stack(crops)), colour_draws(draws))
