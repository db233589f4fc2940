"""The teacher as a black box: images or texts in, L2-normalised embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.preprocess import preprocess, to_rgb
from vl2v_deploy.errors import ModelError
from vl2v_deploy.method.zero_shot import mean_prompt_embedding
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.teacher.open_clip_model import (
    create_model,
    model_identity,
    one_line,
    open_clip_name,
    tower_size_px,
)
from vl2v_deploy.recipe import TeacherRecipe


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
class Teacher:
    """An open_clip model behind the two queries that a vendor sells.

    identity:      changes whenever an answer could: model, weights, preprocessing
    embedding_dim: D
    image_size_px: side of its image tower's square input
    logit_scale:   s, exp of the learned temperature
    batch_size:    images in one query
    """

    identity: str
    embedding_dim: int
    image_size_px: int
    logit_scale: float
    batch_size: int
    device: torch.device
    model: Any
    transform: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """I(x): one embedding an image, with the teacher's own preprocessing; float32 (B, D) on the CPU."""
        with ThreadPoolExecutor() as pool:
            rows = list(pool.map(lambda image: self.transform(to_rgb(image)), images))
        return self._embed_filled(torch.stack(rows))

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as the teacher's image tower takes them; float32 (B, 3, S, S)."""
        return torch.stack([self.transform(to_rgb(image)) for image in images])

    def embed_pixels(self, images: Tensor) -> Tensor:
        """I(x) of images that are pixels already, such as augmented ones; float32 (B, D), on their device.

        images: uint8 (B, H, W, 3) RGB; with `normalization: faithful` the student's H = W = S
        """
        if isinstance(self.transform, StudentPixels):
            batch = self.transform.of_pixels(images.to(self.device))
        else:
            batch = self.preprocess([Image.fromarray(image) for image in images.cpu().numpy()])
        return self._embed_filled(batch).to(images.device)

    def _embed_filled(self, batch: Tensor) -> Tensor:
        """`embed_preprocessed` of a batch that is filled up to `batch_size`.

        Another batch size may round otherwise: so an image's embedding has the same bits whatever it was
        asked with, also when a killed purchase goes on.
        """
        missing = self.batch_size - len(batch)
        filled = torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])]) if missing > 0 else batch
        return self.embed_preprocessed(filled)[: len(batch)]

    @torch.no_grad()
    def embed_preprocessed(self, batch: Tensor) -> Tensor:
        """I(x) of what `preprocess` gave, (B, 3, S, S); float32 (B, D) on the CPU."""
        batch = batch.to(self.device, memory_format=torch.channels_last)  # half the time for convolutions
        return F.normalize(self.model.encode_image(batch).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T(c): one embedding a text; float32 (len(texts), D) on the CPU."""
        tokens = self.tokenize(list(texts)).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1).cpu()


def load_teacher(recipe: TeacherRecipe, device: str = "cpu") -> Teacher:
    """The teacher that a recipe names, through open_clip.

    Raises ModelError when open_clip does not know it or its weights cannot be had, ProviderError for a
    device that is not there, MissingExtra when the built-in teacher's packages are not installed.
    """
    torch_device = require_device(device)
    name = open_clip_name(recipe)
    model, transform = create_model(name, recipe.pretrained, weights=True)
    identity = model_identity(name, recipe.pretrained, transform)
    return _teacher(recipe, name, identity, model, transform, torch_device)


def config_teacher(recipe: TeacherRecipe, device: str = "cpu") -> Teacher:
    """The recipe's teacher with random weights, from its open_clip config: right shapes, nothing downloaded.

    For dry runs. The built-in teacher lies on this machine and comes as it is. The identity says that the
    weights are random: such answers never pass for the teacher's.

    Raises what load_teacher raises; ModelError when the config itself lies on the hub, out of reach.
    """
    if recipe.model.startswith("builtin:"):
        return load_teacher(recipe, device)
    torch_device = require_device(device)
    name = open_clip_name(recipe)
    model, transform = create_model(name, recipe.pretrained, weights=False)
    identity = f"random-weights#{model_identity(name, recipe.pretrained, transform)}"
    return _teacher(recipe, name, identity, model, transform, torch_device)


def image_tower(recipe: TeacherRecipe, *, weights: bool = True) -> Any:
    """open_clip's image tower of the recipe's teacher, on the CPU, in eval mode: (B, 3, S, S) -> (B, D).

    Its attributes image_size (S, S), image_mean and image_std are open_clip's.

    weights: False leaves it random and downloads none

    Raises what load_teacher raises.
    """
    name = open_clip_name(recipe, weights=weights)
    model, _ = create_model(name, recipe.pretrained, weights=weights)
    return model.eval().visual


def faithful_teacher(teacher: Teacher, mean: Sequence[float], std: Sequence[float], size_px: int) -> Teacher:
    """The teacher fed the student's normalised tensor, as the authors' code does (METHOD: settings).

    mean, std: of the student, in [0, 1] units
    size_px:   S of the student

    Raises ModelError unless S is the teacher's own input size: a tensor cannot be resized unnoticed.
    """
    if size_px != teacher.image_size_px:
        raise ModelError(
            "normalization: faithful feeds the student's tensor to the teacher: student.image_size_px is "
            f"{size_px}, the teacher takes {teacher.image_size_px}; make them equal, or use own"
        )
    pixels = StudentPixels(tuple(mean), tuple(std), size_px)
    numbers = ";".join(",".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
    return replace(teacher, identity=f"{teacher.identity}+faithful({numbers};{size_px})", transform=pixels)


def _teacher(
    recipe: TeacherRecipe, name: str, identity: str, model: Any, transform: Any, device: torch.device
) -> Teacher:
    try:
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:  # the hub's client raises many types for "cannot be had"
        raise ModelError(f"teacher: {name}: its tokenizer cannot be loaded: {one_line(error)}") from error
    model.eval().to(device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        embedding_dim = int(model.encode_text(tokenize(["a"]).to(device)).shape[1])
        logit_scale = float(model.logit_scale.exp())
    return Teacher(
        identity=identity,
        embedding_dim=embedding_dim,
        image_size_px=tower_size_px(model.visual),
        logit_scale=logit_scale,
        batch_size=recipe.batch_size,
        device=device,
        model=model,
        transform=transform,
        tokenize=tokenize,
    )


def prompt_classifier(teacher: Teacher, prompts: Sequence[Sequence[str]]) -> Tensor:
    """T: one text embedding a class, averaged over its own prompts; float32 (K, D), L2-normalised.

    prompts: for each of K classes one or more whole texts
    """
    distinct = list(dict.fromkeys(text for texts in prompts for text in texts))
    embeddings = dict(zip(distinct, teacher.embed_texts(distinct), strict=True))  # each (D,)
    by_class = [torch.stack([embeddings[text] for text in texts]) for texts in prompts]  # each (T, D)
    return torch.cat([mean_prompt_embedding(rows[:, None]) for rows in by_class])  # (K, D)
