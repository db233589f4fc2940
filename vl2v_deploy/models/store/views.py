"""Fixed augmented views of images, as a teacher is shown them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vl2v_deploy.client.images import TRUSTED
from vl2v_deploy.client.preprocess import open_rgb
from vl2v_deploy.data.augment import adjust_colours, colour_draws, crop, view_draw
from vl2v_deploy.data.content import read_unchanged
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.models.teacher.protocol import Teacher, device_of
from vl2v_deploy.recipe import AugmentationRecipe


def view_pixels(
    teacher: Teacher,
    wanted: Sequence[tuple[Sample, int]],
    augmentation: AugmentationRecipe,
    pool: ThreadPoolExecutor,
) -> Tensor:
    """Views as pixels, at the teacher's size; uint8 (B, S, S, 3), where it wants them.

    wanted: an image and the number of its view, each
    """
    # views of one image come together
    sha256_of = {sample.path: sample.sha256 for sample, _ in wanted}
    opened = pool.map(lambda item: open_rgb(read_unchanged(*item), TRUSTED), sha256_of.items())
    images = dict(zip(sha256_of, opened, strict=True))
    draws = [
        view_draw(augmentation, sample.sha256, view, *images[sample.path].size) for sample, view in wanted
    ]
    size_px, device = teacher.image_size_px, device_of(teacher)
    crops = pool.map(lambda item, draw: crop(images[item[0].path], draw, size_px), wanted, draws)
    pixels = torch.from_numpy(np.stack(list(crops))).to(device)  # (B, S, S, 3)
    return adjust_colours(pixels, colour_draws(draws).to(device))
