"""A teacher that open_clip loads: the built-in one, a published one, or a folder of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.preprocess import preprocess, to_rgb
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.batches import in_full_batch
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.teacher.open_clip_model import (
    create_model,
    model_identity,
    open_clip_name,
    projection_parameters,
    tokenizer_of,
    tower_size_px,
)
from vl2v_deploy.models.teacher.protocol import ImageTower
from vl2v_deploy.recipe import OpenClipRecipe


@dataclass(frozen=True)
class StudentPixels:
    """The preprocessing of `normalization: faithful`: what the student sees, normalised as for the student.

    mean, std: of the student, in [0, 1] units
    size_px:   S
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_px: int

    def __call__(self, image: Image.Image) -> Tensor:
        """The image as the student's normalised tensor; float32 (3, S, S)."""
        return self.of_pixels(torch.tensor(preprocess(image, self.size_px))[None])[0]

    def of_pixels(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, 3, S, S), on the same device."""
        if images.shape[1:] != (self.size_px, self.size_px, 3):
            raise ModelError(
                f"normalization: faithful: expected images (B, {self.size_px}, {self.size_px}, 3), "
                f"got {tuple(images.shape)}"
            )
        # The student's own arithmetic, to the last bit: see models.student.
        mean = 255.0 * torch.tensor(self.mean, device=images.device)
        std = 255.0 * torch.tensor(self.std, device=images.device)
        return ((images.float() - mean) / std).permute(0, 3, 1, 2)  # (B, 3, S, S)


@dataclass(frozen=True)
class OpenClipTeacher:
    """An open_clip model on its device; a `Teacher` and a `WhiteBox` (see protocol.py)."""

    identity: str
    embedding_dim: int
    image_size_px: int
    logit_scale: float
    batch_size: int
    device: torch.device
    model: Any
    transform: Callable[[Image.Image], Tensor]
    tokenize: Callable[..., Tensor]
    price: None = None  # what a machine costs is the benchmark's business

    @property
    def image_tower(self) -> ImageTower:
        """Its image encoder, where it computes."""
        return _image_tower(self.model.visual)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """I(x), with the teacher's own preprocessing; float32 (B, D) on the CPU."""
        return in_full_batch(self.embed_preprocessed, self.preprocess(images), self.batch_size)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as the image tower takes them; float32 (B, 3, S, S)."""
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(lambda image: self.transform(to_rgb(image)), images)))

    def embed_pixels(self, images: Tensor) -> Tensor:
        """I(x) of images that are pixels already, such as augmented ones; float32 (B, D), on their device.

        images: uint8 (B, H, W, 3) RGB; with `normalization: faithful` the student's H = W = S
        """
        if isinstance(self.transform, StudentPixels):
            batch = self.transform.of_pixels(images.to(self.device))
        else:
            batch = self.preprocess([Image.fromarray(image) for image in images.cpu().numpy()])
        return in_full_batch(self.embed_preprocessed, batch, self.batch_size).to(images.device)

    @torch.no_grad()
    def embed_preprocessed(self, batch: Tensor) -> Tensor:
        """I(x) of what `preprocess` gave, (B, 3, S, S); float32 (B, D) on the CPU."""
        batch = batch.to(self.device, memory_format=torch.channels_last)  # half the time for convolutions
        return F.normalize(self.model.encode_image(batch).float(), dim=-1).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T(c); float32 (len(texts), D) on the CPU."""
        return in_full_batch(self._embed_tokens, self.tokenize(list(texts)), self.batch_size)

    def cut_texts(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end the model does not read, as they have too many tokens."""
        kept = self.tokenize(list(texts))  # (N, L)
        length = kept.shape[1]
        longer = self.tokenize(list(texts), context_length=2 * length)[:, :length]
        return [text for text, same in zip(texts, (kept == longer).all(dim=1), strict=True) if not same]

    @torch.no_grad()
    def _embed_tokens(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1).cpu()

    def fed_by_student(self, mean: Sequence[float], std: Sequence[float], size_px: int) -> OpenClipTeacher:
        """The same teacher fed the student's normalised tensor, as the authors' code does.

        mean, std: of the student, in [0, 1] units
        size_px:   S of the student

        Raises ModelError unless S is the teacher's own input size: a tensor cannot be resized unnoticed.
        """
        if size_px != self.image_size_px:
            raise ModelError(
                "normalization: faithful feeds the student's tensor to the teacher: student.image_size_px is "
                f"{size_px}, the teacher takes {self.image_size_px}; make them equal, or use own"
            )
        pixels = StudentPixels(tuple(mean), tuple(std), size_px)
        numbers = ";".join(",".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
        return replace(self, identity=f"{self.identity}+faithful({numbers};{size_px})", transform=pixels)


def load_open_clip(recipe: OpenClipRecipe, device: str, *, weights: bool = True) -> OpenClipTeacher:
    """The teacher that a recipe names, through open_clip.

    weights: False leaves them random and downloads nothing, for dry runs. The identity says so: such answers
             never pass for the teacher's. The built-in teacher lies on this machine and comes as it is.

    Raises ModelError when open_clip does not know it or its weights cannot be had, ProviderError for a
    device that is not there, MissingExtra when the built-in teacher's packages are not installed.
    """
    torch_device = require_device(device)
    weights = weights or recipe.model.startswith("builtin:")
    name = open_clip_name(recipe)
    model, transform = create_model(name, recipe.pretrained, weights=weights)
    identity = model_identity(name, recipe.pretrained, transform)
    tokenize = tokenizer_of(name)
    model.eval().to(torch_device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        embedding_dim = int(model.encode_text(tokenize(["a"]).to(torch_device)).shape[1])
        logit_scale = float(model.logit_scale.exp())
    return OpenClipTeacher(
        identity=identity if weights else f"random-weights#{identity}",
        embedding_dim=embedding_dim,
        image_size_px=tower_size_px(model.visual),
        logit_scale=logit_scale,
        batch_size=recipe.batch_size,
        device=torch_device,
        model=model,
        transform=transform,
        tokenize=tokenize,
    )


def open_clip_tower(recipe: OpenClipRecipe, *, weights: bool) -> ImageTower:
    """The image tower of the recipe's teacher.

    weights: False leaves it random and downloads none

    Raises what load_open_clip raises.
    """
    model, _ = create_model(open_clip_name(recipe, weights=weights), recipe.pretrained, weights=weights)
    return _image_tower(model.eval().visual)


def _image_tower(tower: Any) -> ImageTower:
    return ImageTower(
        module=tower,
        size_px=tower_size_px(tower),
        mean=tuple(tower.image_mean),
        std=tuple(tower.image_std),
        projection=tuple(projection_parameters(tower)),
    )
