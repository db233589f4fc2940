"""A dual encoder of Hugging Face transformers: CLIP, SigLIP, AltCLIP and their kin, with its own processor.

What makes a model one is that it has `get_image_features` and `get_text_features`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.preprocess import to_rgb
from vl2v_deploy.errors import MissingExtra, ModelError, one_line
from vl2v_deploy.models.device import require_device
from vl2v_deploy.recipe import TransformersRecipe, fixed_scale
from vl2v_deploy.recipe.teachers import LOCAL

# What of a local folder can change an answer: weights, configurations, the tokenizer's files.
_PARTS = {".safetensors", ".bin", ".json", ".txt", ".model"}
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class TransformersTeacher:
    """A transformers model on its device; a `Teacher` (see protocol.py).

    max_tokens: longer texts are cut, as the model was trained
    padding:    True to the longest text of a query, or 'max_length'
    """

    identity: str
    embedding_dim: int
    image_size_px: int
    logit_scale: float | None
    batch_size: int
    device: torch.device
    model: Any
    image_processor: Any
    tokenizer: Any
    max_tokens: int
    padding: bool | str
    price: None = None

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """I(x), with the model's own preprocessing; float32 (B, D) on the CPU."""
        inputs = self.image_processor(images=[to_rgb(image) for image in images], return_tensors="pt")
        return self._embed(self.model.get_image_features, inputs)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T(c); float32 (len(texts), D) on the CPU."""
        inputs = self.tokenizer(
            list(texts),
            padding=self.padding,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return self._embed(self.model.get_text_features, inputs)

    def cut_texts(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end the model does not read, as they have too many tokens."""
        tokens = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [text for text, of in zip(texts, tokens, strict=True) if len(of) > self.max_tokens]

    @torch.no_grad()
    def _embed(self, features: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Tensor:
        """The normalised features of (B, ...) inputs, in a batch of one size (see models.batches)."""
        count = len(next(iter(inputs.values())))
        rows = torch.arange(self.batch_size).clamp(max=count - 1)  # the last one fills the batch up
        filled = {name: value[rows].to(self.device) for name, value in inputs.items()}
        return F.normalize(_tensor(features(**filled))[:count].float(), dim=-1).cpu()


def load_transformers(recipe: TransformersRecipe, device: str) -> TransformersTeacher:
    """The teacher that a recipe names, through transformers; code from the hub is never run.

    Raises ModelError when it cannot be had or is no dual encoder, ProviderError for a device that is not
    there, MissingExtra without transformers.
    """
    torch_device = require_device(device)
    name = recipe.model.removeprefix(LOCAL)
    if recipe.model.startswith(LOCAL) and not Path(name, "config.json").is_file():
        raise ModelError(f"teacher.model: {name}: holds no config.json")
    model, image_processor, tokenizer = _load(name, recipe.revision)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise ModelError(
            f"teacher.model: {name}: {type(model).__name__} is no dual encoder: it has no get_image_features "
            "and get_text_features"
        )
    model.eval().to(torch_device)
    config = model.config
    teacher = TransformersTeacher(
        identity=_identity(recipe, config, image_processor),
        embedding_dim=0,  # not known before it has answered
        image_size_px=_image_size_px(config, image_processor),
        logit_scale=_logit_scale(model) if recipe.logit_scale is None else fixed_scale(recipe),
        batch_size=recipe.batch_size,
        device=torch_device,
        model=model,
        image_processor=image_processor,
        tokenizer=tokenizer,
        max_tokens=min(tokenizer.model_max_length, config.text_config.max_position_embeddings),
        # SigLIP reads the last position of a text, which training put at a fixed place.
        padding="max_length" if config.model_type.startswith("siglip") else True,
    )
    return replace(teacher, embedding_dim=teacher.embed_texts(["a"]).shape[1])


def _load(name: str, revision: str | None) -> tuple[Any, Any, Any]:
    """Model (fp32), image processor and tokenizer of a folder or a hub's repository."""
    try:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    except ImportError as missing:
        raise MissingExtra("transformers", "transformers") from missing
    try:
        model, info = AutoModel.from_pretrained(name, revision=revision, output_loading_info=True)
        image_processor = AutoImageProcessor.from_pretrained(name, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except Exception as error:  # transformers and the hub's client raise many types for "cannot be had"
        raise ModelError(f"teacher.model: {name} cannot be loaded: {one_line(error)}") from error
    if absent := sorted(info["missing_keys"]):  # transformers makes them up and only warns
        raise ModelError(f"teacher.model: {name}: {len(absent)} weight(s) missing, the first is {absent[0]}")
    return model.float(), image_processor, tokenizer


def _tensor(features: Any) -> Tensor:
    """(B, D) as transformers 4 gives it, or inside the output object of transformers 5."""
    found = features if isinstance(features, Tensor) else getattr(features, "pooler_output", None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ModelError(f"teacher: expected features (B, D), got {type(features).__name__}")
    return found


def _logit_scale(model: Any) -> float | None:
    """exp of the learned temperature. SigLIP's bias is the same for all classes, which softmax ignores."""
    learned = getattr(model, "logit_scale", None)
    return None if learned is None else float(learned.detach().exp())


def _image_size_px(config: Any, image_processor: Any) -> int:
    """Side of what the image tower looks at: the processor's crop or size, else the configuration's."""
    for size in (getattr(image_processor, "crop_size", None), getattr(image_processor, "size", None)):
        sides = {size.get(name) for name in ("height", "width", "shortest_edge")} - {None} if size else set()
        if sides:
            return int(max(sides))
    return int(config.vision_config.image_size)


def _identity(recipe: TransformersRecipe, config: Any, image_processor: Any) -> str:
    """Model, weights and preprocessing in one line; local weights by content, the hub's by commit.

    The library's major version is part of it: 4 resizes images in Pillow, 5 in torchvision.
    """
    library = f"transformers-{version('transformers').partition('.')[0]}"
    if recipe.model.startswith(LOCAL):
        digest = hashlib.sha256()
        folder = Path(recipe.model.removeprefix(LOCAL))
        for file in sorted(file for file in folder.iterdir() if file.suffix in _PARTS):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return f"{library}:local-dir#{digest.hexdigest()[:16]}"
    digest = hashlib.sha256(image_processor.to_json_string().encode())
    commit = getattr(config, "_commit_hash", None) or recipe.revision or ""
    return f"{library}:{recipe.model}@{commit}#{digest.hexdigest()[:16]}"
