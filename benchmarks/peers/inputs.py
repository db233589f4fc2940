"""What their loaders and models are given: images of one split, torchvision's transforms, normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from vl2v_deploy.client.preprocess import open_image, to_rgb
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.models.teacher.protocol import WhiteBox
from vl2v_deploy.recipe import AugmentationRecipe

Transform = Callable[[Any], Tensor]


class Images(Dataset[tuple[Tensor, int]]):
    """One split of a domain, decoded and transformed when asked for; image (3, S, S) and label."""

    def __init__(self, samples: Sequence[Sample], transform: Transform) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        sample = self.samples[row]
        return self.transform(to_rgb(open_image(sample.path))), sample.label


def augmentation(
    recipe: AugmentationRecipe, size_px: int, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """torchvision's own augmentation with the recipe's settings: a Pillow image -> (3, S, S), normalised."""
    jitter = recipe.colour_jitter
    composed: Transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size_px, scale=(recipe.crop_scale_min, 1.0)),
            transforms.RandomHorizontalFlip(recipe.horizontal_flip),
            transforms.ColorJitter(jitter, jitter, jitter, recipe.hue_jitter),
            transforms.RandomGrayscale(recipe.grayscale),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return composed


def plain(size_px: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """The evaluation transform: the whole image squashed to a square; a Pillow image -> (3, S, S)."""
    composed: Transform = transforms.Compose(
        [transforms.Resize((size_px, size_px)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    return composed


def resized(images: Tensor, size_px: int) -> Tensor:
    """The tensor at another size, itself where it has it; (B, 3, S, S) -> (B, 3, size_px, size_px)."""
    if images.shape[-1] == size_px:
        return images
    return F.interpolate(images, (size_px, size_px), mode="bilinear", antialias=True)


def teacher_input(
    teacher: WhiteBox, images: Tensor, student_px: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """What the teacher is fed of the student's normalised tensor; (B, 3, S_t, S_t).

    The tensor itself where both take images of one size, as in the authors' code; else it is resized on
    the device and normalised for the teacher.

    images:     (B, 3, S, S)
    student_px: side of the student's input
    mean, std:  of the student, in [0, 1] units
    """
    if teacher.image_size_px == student_px:
        return images
    tower = teacher.image_tower
    own, theirs = (
        [images.new_tensor(values)[:, None, None] for values in pair]
        for pair in ((mean, std), (tower.mean, tower.std))
    )
    pixels = images * own[1] + own[0]  # in [0, 1]
    return (resized(pixels, teacher.image_size_px) - theirs[0]) / theirs[1]
