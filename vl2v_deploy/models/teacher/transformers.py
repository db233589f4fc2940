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
from vl2v_deploy.regular_files import open_regular
from vl2v_deploy.terminal import new_console

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
    """The teacher that a recipe names, through transformers; code of its own runs only on request.

    Raises ModelError when it cannot be had, needs code of its own or is no dual encoder, ProviderError for a
    device that is not there, MissingExtra without transformers.
    """
    torch_device = require_device(device)
    name = recipe.model.removeprefix(LOCAL)
    if recipe.model.startswith(LOCAL) and not Path(name, "config.json").is_file():
        raise ModelError(f"teacher.model: {name}: holds no config.json")
    local_parts = _local_parts(recipe)
    if recipe.trust_remote_code:
        new_console(stderr=True).print(
            f"teacher.trust_remote_code: true: the Python code that comes with {name} is run here, as you.",
            soft_wrap=True,
        )
    model, image_processor, tokenizer = _load(name, recipe)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise ModelError(
            f"teacher.model: {name}: {type(model).__name__} is no dual encoder: it has no get_image_features "
            "and get_text_features"
        )
    model.eval().to(torch_device)
    config = model.config
    teacher = TransformersTeacher(
        identity=_identity(recipe, config, image_processor, local_parts),
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


def _load(name: str, recipe: TransformersRecipe) -> tuple[Any, Any, Any]:
    """Model (fp32), image processor and tokenizer of a folder or a hub's repository."""
    try:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    except ImportError as missing:
        raise MissingExtra("transformers", "transformers") from missing
    # Left out, it is a question on standard input, and `yes` answers it.
    given = {"revision": recipe.revision, "trust_remote_code": recipe.trust_remote_code}
    try:
        model, info = AutoModel.from_pretrained(name, output_loading_info=True, **given)
        image_processor = AutoImageProcessor.from_pretrained(name, **given)
        tokenizer = AutoTokenizer.from_pretrained(name, **given)
    except Exception as error:  # transformers and the hub's client raise many types for "cannot be had"
        if not recipe.trust_remote_code and "trust_remote_code" in str(error):
            raise ModelError(
                f"teacher.model: {name}: needs Python code that comes with it, which is not run; read it, "
                "and if you trust it as you trust this machine: teacher.trust_remote_code: true"
            ) from error
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


def _local_parts(recipe: TransformersRecipe) -> str | None:
    """What the files of a local folder that can change an answer are, hexadecimal; None for the hub's.

    Raises ModelError for one that is no regular file: it could keep a reader waiting for ever.
    """
    if not recipe.model.startswith(LOCAL):
        return None
    digest = hashlib.sha256()
    parts = _PARTS | {".py"} if recipe.trust_remote_code else _PARTS
    folder = Path(recipe.model.removeprefix(LOCAL))
    for file in sorted(file for file in folder.iterdir() if file.suffix in parts):
        try:
            with open_regular(file) as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise ModelError(f"teacher.model: {file}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def _identity(recipe: TransformersRecipe, config: Any, image_processor: Any, local_parts: str | None) -> str:
    """Model, weights and preprocessing in one line; local weights by content, the hub's by commit.

    The library's major version is part of it: 4 resizes images in Pillow, 5 in torchvision.
    """
    library = f"transformers-{version('transformers').partition('.')[0]}"
    if local_parts is not None:
        return f"{library}:local-dir#{local_parts}"
    digest = hashlib.sha256(image_processor.to_json_string().encode())
    commit = getattr(config, "_commit_hash", None) or recipe.revision or ""
    return f"{library}:{recipe.model}@{commit}#{digest.hexdigest()[:16]}"
