"""Training augmentation, the paper's by default: drawn first, then applied in two parts.

A `Draw` describes one augmented view completely. Its crop and flip are applied image by image where the
image is decoded; its colours batch by batch, on the training device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.recipe import AugmentationRecipe

# torchvision's and the authors' range of the crop's width to height
ASPECT_RATIO = (3 / 4, 4 / 3)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
CPU_IMAGES = 8  # worked on at once on a processor
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


@dataclass(frozen=True)
class Augment:
    """What is drawn for training images, and the side S in pixels of the square at which they are shown."""

    recipe: AugmentationRecipe
    size_px: int


@dataclass(frozen=True)
class Draw:
    """One augmented view of an image, of whatever size it is shown at.

    box:     crop (left, top, width, height), as shares of the image's width and height
    flip:    whether left and right change places, after the crop
    factors: of brightness, contrast and saturation; 1 = unchanged
    hue:     shift in turns
    order:   in which BRIGHTNESS, CONTRAST, SATURATION and HUE are applied
    gray:    whether the view ends as a greyscale image
    """

    box: tuple[float, float, float, float]
    flip: bool
    factors: tuple[float, float, float]
    hue: float
    order: tuple[int, int, int, int]
    gray: bool


def draw_augmentation(recipe: AugmentationRecipe, width: int, height: int, rng: np.random.Generator) -> Draw:
    """A random view: resized crop, flip, torchvision's ColorJitter, greyscale.

    Every number comes from the generator that the caller passes, never from a global one.

    width, height: of the image in pixels; they bound the crop's aspect ratio
    """
    left, top, crop_width, crop_height = crop_box(width, height, recipe.crop_scale_min, rng)
    flip = bool(rng.random() < recipe.horizontal_flip)
    strength = recipe.colour_jitter
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3).tolist()
    hue = float(rng.uniform(-recipe.hue_jitter, recipe.hue_jitter))
    first, second, third, fourth = rng.permutation(4).tolist()
    return Draw(
        box=(left / width, top / height, crop_width / width, crop_height / height),
        flip=flip,
        factors=(brightness, contrast, saturation),
        hue=hue,
        order=(first, second, third, fourth),
        gray=bool(rng.random() < recipe.grayscale),
    )


def view_draw(recipe: AugmentationRecipe, sha256: str, view: int, width: int, height: int) -> Draw:
    """View number `view` of the image of this content; the same for the same arguments, always.

    So a teacher can be shown exactly this view once, and the student replays it in every epoch.

    sha256: of the image file's bytes, hexadecimal
    view:   0, 1, ... below the recipe's teacher_views
    """
    return draw_augmentation(recipe, width, height, np.random.default_rng((view, int(sha256, 16))))


def crop(image: Image.Image, draw: Draw, size_px: int) -> Pixels:
    """The draw's crop, squashed to a square and flipped; uint8 (S, S, 3). Colours are left alone.

    image:   RGB
    size_px: S
    """
    left, top, width, height = draw.box
    # A share times a size may end a rounding error outside the image, which Pillow refuses.
    right = min((left + width) * image.width, image.width)
    bottom = min((top + height) * image.height, image.height)
    square = image.resize(
        (size_px, size_px),
        Image.Resampling.BILINEAR,
        box=(left * image.width, top * image.height, right, bottom),
    )
    if draw.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def crop_box(
    width: int, height: int, scale_min: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random crop (left, top, width, height) in pixels, inside the image.

    Its share of the image's area is uniform in [scale_min, 1], its aspect ratio log-uniform in
    [3/4, 4/3]; where ten draws do not fit, the largest centred crop of such a ratio, as torchvision's.
    A scale_min of 1 means no crop.
    """
    if scale_min == 1.0:
        return 0.0, 0.0, float(width), float(height)
    for _ in range(10):
        area = width * height * rng.uniform(scale_min, 1.0)
        ratio = float(np.exp(rng.uniform(*np.log(ASPECT_RATIO))))
        crop_width, crop_height = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        if crop_width <= width and crop_height <= height:
            left = rng.uniform(0, width - crop_width)
            top = rng.uniform(0, height - crop_height)
            return left, top, crop_width, crop_height
    narrowest, widest = ASPECT_RATIO
    crop_width, crop_height = min(width, height * widest), min(height, width / narrowest)
    return (width - crop_width) / 2, (height - crop_height) / 2, crop_width, crop_height


@dataclass(frozen=True)
class ColourDraws:
    """The colours of a batch's draws, in the form that `adjust_colours` takes.

    Images are taken in the order of `rows`: those whose hue comes first are first. Then each of the three
    other operations is due before the hue for one contiguous part of the batch and after it for the rest,
    so that every image gets its own order by slicing, without work or a wait for any other order.

    rows:    (B,) int64, the images by how many operations precede their hue
    starts:  for the j-th operation beside hue, where the images begin for which it precedes the hue
    factors: (3, B) of the j-th operation beside hue, in the order of rows
    kinds:   (4, B) int64, which operation that is; the fourth is greyscale, a saturation
    hue:     (B,) turns, in the order of rows; None when no hue shifts
    gray:    (B,) 1 for those that end as greyscale, else 0, in the order of rows
    """

    rows: Tensor
    starts: tuple[int, int, int]
    factors: Tensor
    kinds: Tensor
    hue: Tensor | None
    gray: Tensor

    def to(self, device: torch.device | str) -> ColourDraws:
        """The same on another device; does not wait where the tensors are pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ColourDraws:
        """The same in page-locked memory, from which a GPU copies while the program goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> ColourDraws:
        return replace(
            self,
            rows=change(self.rows),
            factors=change(self.factors),
            kinds=change(self.kinds),
            hue=None if self.hue is None else change(self.hue),
            gray=change(self.gray),
        )


def colour_draws(draws: Sequence[Draw]) -> ColourDraws:
    """The colours of B draws."""
    precede = np.array([draw.order.index(HUE) for draw in draws])
    rows = np.argsort(precede, kind="stable")
    beside = [[kind for kind in draws[row].order if kind != HUE] for row in rows]
    factors = [[draws[row].factors[kind] for kind in kinds] for row, kinds in zip(rows, beside, strict=True)]
    first, second, third = (int((precede <= j).sum()) for j in range(3))
    hue = torch.tensor([draws[row].hue for row in rows], dtype=torch.float32)
    return ColourDraws(
        rows=torch.from_numpy(rows),
        starts=(first, second, third),
        factors=torch.tensor(factors, dtype=torch.float32).T.contiguous(),
        kinds=torch.tensor([[*kinds, SATURATION] for kinds in beside]).T.contiguous(),
        hue=hue if bool(hue.any()) else None,
        gray=torch.tensor([draws[row].gray for row in rows], dtype=torch.float32),
    )


def adjust_colours(images: Tensor, draws: ColourDraws) -> Tensor:
    """The images with their colours changed as drawn; uint8 (B, S, S, 3), on the images' device.

    Brightness, contrast, saturation and hue are torchvision's, each image in its own order; the working
    values are floats, cut to [0, 255] after each operation as torchvision's are, and rounded once at the end.

    images: uint8 (B, S, S, 3) RGB; left as they are
    draws:  of these B images, on the same device
    """
    factor = torch.cat([draws.factors, 1 - draws.gray[None]])  # (4, B); greyscale is no saturation at all
    to_mean = (1 - factor) * (draws.kinds == CONTRAST)
    to_gray = (1 - factor) * (draws.kinds == SATURATION)
    weights = torch.stack([factor, to_mean, to_gray], dim=1)[..., None, None, None]  # (4, 3, B, 1, 1, 1)
    changed = torch.empty_like(images)
    # A processor is twice as fast where the working values fit its cache; a GPU is faster with all at once.
    at_once = CPU_IMAGES if images.device.type == "cpu" else len(images)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        pixels = images.index_select(0, draws.rows[part]).permute(0, 3, 1, 2)
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)  # (n, 3, S, S)
        weight = weights[:, :, part]
        starts = [min(max(start - first, 0), len(pixels)) for start in draws.starts]
        for j, start in enumerate(starts):
            _blend(pixels[start:], *weight[j, :, start:])
        if draws.hue is not None:
            _shift_hue(pixels, draws.hue[part])
        for j, start in enumerate(starts):
            _blend(pixels[:start], *weight[j, :, :start])
        _blend(pixels, *weight[3])
        changed[part] = pixels.add_(0.5).permute(0, 2, 3, 1)
    return changed.index_select(0, draws.rows.argsort())


def _blend(pixels: Tensor, factor: Tensor, to_mean: Tensor, to_gray: Tensor) -> None:
    """Brightness, contrast or saturation, in place: all are factor * x + (1 - factor) * something.

    That is black, the image's mean luma, or the pixel's luma; the two weights say which, the other being 0.

    pixels:                   (n, 3, S, S) in [0, 255]
    factor, to_mean, to_gray: (n, 1, 1, 1)
    """
    if len(pixels) == 0:
        return
    gray = _gray(pixels)  # (n, 1, S, S)
    mean = gray.mean(dim=(1, 2, 3), keepdim=True)
    toward = gray.mul_(to_gray).add_(to_mean * mean)
    torch.addcmul(toward, pixels, factor, out=pixels).clamp_(0, 255)


def _gray(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=1)
    gray: Tensor = LUMA[0] * red
    return gray.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _shift_hue(pixels: Tensor, turns: Tensor) -> None:
    """Turn the hue in place; each pixel's largest and smallest channel, its value and chroma, stay.

    pixels: (n, 3, S, S)
    turns:  (n,)
    """
    red, green, blue = pixels.unbind(1)  # each (n, S, S)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = largest - smallest
    per_sixth = 1 / chroma.clamp(min=1e-6)  # a grey pixel has no hue, and no chroma to show any
    hue = torch.where(green == largest, 2 + (blue - red) * per_sixth, 4 + (red - green) * per_sixth)
    hue = torch.where(red == largest, (green - blue) * per_sixth, hue)
    hue = hue.add_(6 * turns[:, None, None]).remainder_(6)  # in sixths of a turn
    torch.addcmul(smallest, chroma, (hue - 3).abs_().sub_(1).clamp_(0, 1), out=red)
    torch.addcmul(smallest, chroma, (hue - 2).abs_().neg_().add_(2).clamp_(0, 1), out=green)
    torch.addcmul(smallest, chroma, (hue - 4).abs_().neg_().add_(2).clamp_(0, 1), out=blue)
