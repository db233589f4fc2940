"""Outputs of a model for whole image sets, in batches divided among the processes; none computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from vl2v_deploy.models.student import Student
from vl2v_deploy.recipe import AugmentationRecipe, Recipe

BATCH_SIZE = 64


@dataclass
class StudentFeatures:
    """Features of the pretrained student, which no run trains: each is computed once for all runs.

    world:  the processes of this run
    device: of this process
    cache:  decoded images
    """

    world: World
    device: torch.device
    cache: ImageCache
    _known: dict[str, Tensor] = field(default_factory=dict)

    def of_images(self, student: Student, recipe: Recipe, samples: Sequence[Sample]) -> Tensor:
        """F_s(x) of the un-augmented images under the pretrained backbone; (N, d_s) on the CPU.

        They do not depend on seed, target or method.
        """

        def compute(missing: Sequence[Sample]) -> Tensor:
            return compute_batched(
                student.features,
                [sample.path for sample in missing],
                recipe.student.image_size_px,
                self.device,
                ImageCache(0),  # seen once: they would take the room of images that are trained on
                self.world,
                "Student features",
            )

        return self._rows(f"{recipe.student!r} ", samples, compute)

    @torch.no_grad()
    def of_views(self, student: Student, recipe: Recipe, samples: Sequence[Sample]) -> Tensor:
        """F_s(x) of what the teacher was shown of each training image; (N, V, d_s) on the CPU."""
        if recipe.teacher_views == 0:
            return self.of_images(student, recipe, samples).unsqueeze(1)
        assert isinstance(recipe.teacher_views, int)  # online: no features are computed ahead
        views = [self._of_view(student, recipe, samples, view) for view in range(recipe.teacher_views)]
        return torch.stack(views, dim=1)  # (N, V, d_s)

    def _of_view(self, student: Student, recipe: Recipe, samples: Sequence[Sample], view: int) -> Tensor:
        augmentation, size_px = recipe.distill.augmentation, recipe.student.image_size_px

        def compute(missing: Sequence[Sample]) -> Tensor:
            mine = [missing[row] for row in self.world.mine(len(missing))]
            chunks = (mine[start : start + BATCH_SIZE] for start in range(0, len(mine), BATCH_SIZE))
            pixels = (view_pixels(chunk, augmentation, view, size_px, self.cache) for chunk in chunks)
            rows = [in_full_batch(student.features, images.to(self.device), BATCH_SIZE) for images in pixels]
            width = rows[0].shape[1] if rows else 0
            # more processes than images: the width is one that another process knows
            width = max(self.world.each(width))
            return self.world.gather(torch.cat(rows) if rows else torch.empty(0, width), len(missing))

        return self._rows(f"{recipe.student!r} {augmentation!r} {view} ", samples, compute)

    def _rows(
        self, prefix: str, samples: Sequence[Sample], compute: Callable[[Sequence[Sample]], Tensor]
    ) -> Tensor:
        """The rows of these samples, computed for those that were not asked for before."""
        missing = [sample for sample in samples if prefix + sample.sha256 not in self._known]
        if missing:
            keys = (prefix + sample.sha256 for sample in missing)
            self._known.update(zip(keys, compute(missing), strict=True))
        return torch.stack([self._known[prefix + sample.sha256] for sample in samples])


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
