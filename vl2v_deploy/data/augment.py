"""Training augmentation (METHOD: settings of the authors' runs), on Pillow images, drawn from one seed."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.recipe import AugmentationRecipe

# torchvision's and the authors' range of the crop's width to height
ASPECT_RATIO = (3 / 4, 4 / 3)


class Augment:
    """Random resized crop, flip, colour jitter, greyscale; RGB image -> uint8 (S, S, 3).

    Every draw comes from the generator that the caller passes, never from a global one, so an image's
    augmentation depends on nothing but its seed.
    """

    def __init__(self, recipe: AugmentationRecipe, size_px: int) -> None:
        self.recipe, self.size_px = recipe, size_px

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Pixels:
        recipe = self.recipe
        left, top, width, height = crop_box(image.width, image.height, recipe.crop_scale_min, rng)
        image = image.resize(
            (self.size_px, self.size_px),
            Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )
        if rng.random() < recipe.horizontal_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = self._jitter(image, rng)
        if rng.random() < recipe.grayscale:
            image = image.convert("L").convert("RGB")
        return np.asarray(image)

    def _jitter(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Brightness, contrast, saturation and hue, in random order (torchvision's ColorJitter)."""
        strength, hue = self.recipe.colour_jitter, self.recipe.hue_jitter
        factors = rng.uniform(1 - strength, 1 + strength, size=3)
        shift = float(rng.uniform(-hue, hue))
        for step in rng.permutation(4):
            if step == 3 and hue > 0:
                image = transforms.adjust_hue(image, shift)
            elif step < 3 and strength > 0:
                adjust = (
                    transforms.adjust_brightness,
                    transforms.adjust_contrast,
                    transforms.adjust_saturation,
                )
                image = adjust[step](image, float(factors[step]))
        return image


def crop_box(
    width: int, height: int, scale_min: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random crop (left, top, width, height) in pixels, inside the image.

    Its share of the image's area is uniform in [scale_min, 1], its aspect ratio log-uniform in
    [3/4, 4/3]; where ten draws do not fit, the whole image.
    """
    for _ in range(10):
        area = width * height * rng.uniform(scale_min, 1.0)
        ratio = float(np.exp(rng.uniform(*np.log(ASPECT_RATIO))))
        crop_width, crop_height = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        if crop_width <= width and crop_height <= height:
            left = rng.uniform(0, width - crop_width)
            top = rng.uniform(0, height - crop_height)
            return left, top, crop_width, crop_height
    return 0.0, 0.0, float(width), float(height)
