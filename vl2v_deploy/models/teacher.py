"""The teacher as a black box: images or texts in, L2-normalised embeddings out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.preprocess import to_rgb
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.errors import ModelError, did_you_mean
from vl2v_deploy.method.zero_shot import mean_prompt_embedding
from vl2v_deploy.models.builtin import assemble_teacher
from vl2v_deploy.models.device import require_device
from vl2v_deploy.recipe import TeacherRecipe


@dataclass(frozen=True)
class Teacher:
    """An open_clip model behind the two queries that a vendor sells.

    identity:      changes whenever an answer could: model, weights, preprocessing
    embedding_dim: D
    logit_scale:   s, exp of the learned temperature
    batch_size:    images in one query
    """

    identity: str
    embedding_dim: int
    logit_scale: float
    batch_size: int
    device: torch.device
    model: Any
    transform: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """I(x): one embedding an image, with the teacher's own preprocessing; float32 (B, D) on the CPU."""
        return self.embed_preprocessed(self.preprocess(images))

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as the teacher's image tower takes them; float32 (B, 3, S, S)."""
        return torch.stack([self.transform(to_rgb(image)) for image in images])

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
    name = _open_clip_name(recipe)
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name,
            pretrained=recipe.pretrained,
            device=torch_device,
            # open_clip only warns of both: weights that are not there, and a tag trained with QuickGELU
            # (OpenAI's) put into a model built without it, which then answers a little wrong.
            require_pretrained=True,
            force_quick_gelu=_wants_quick_gelu(name, recipe.pretrained),
        )
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip and the hub's client raise many types for "cannot be had"
        raise ModelError(f"teacher: {name} cannot be loaded: {type(error).__name__}: {error}") from error
    model.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        embedding_dim = int(model.encode_text(tokenize(["a"]).to(torch_device)).shape[1])
        logit_scale = float(model.logit_scale.exp())
    return Teacher(
        identity=_identity(name, recipe.pretrained, transform),
        embedding_dim=embedding_dim,
        logit_scale=logit_scale,
        batch_size=recipe.batch_size,
        device=torch_device,
        model=model,
        transform=transform,
        tokenize=tokenize,
    )


def zero_shot_classifier(teacher: Teacher, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """T: one text embedding a class, averaged over the templates; float32 (K, D), L2-normalised.

    class_names: K names; `_` is read as a space, as in the authors' runs
    templates:   each with {class}
    """
    texts = [
        template.replace("{class}", name.replace("_", " ")) for template in templates for name in class_names
    ]
    embeddings = teacher.embed_texts(texts)  # (T * K, D)
    return mean_prompt_embedding(embeddings.unflatten(0, (len(templates), len(class_names))))


def _open_clip_name(recipe: TeacherRecipe) -> str:
    if recipe.model.startswith("builtin:"):
        return f"local-dir:{assemble_teacher(cache_dir())}"
    if recipe.model.startswith("local-dir:"):
        folder = Path(recipe.model.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise ModelError(f"teacher.model: {folder}: holds no open_clip_config.json")
    elif not recipe.model.startswith("hf-hub:"):
        if recipe.model not in open_clip.list_models():
            hint = did_you_mean(recipe.model, open_clip.list_models())
            raise ModelError(f"teacher.model: open_clip has no model {recipe.model!r}{hint}")
        tags = open_clip.list_pretrained_tags_by_model(recipe.model)
        if recipe.pretrained not in tags and not Path(recipe.pretrained or "").is_file():
            raise ModelError(
                f"teacher.pretrained: {recipe.pretrained!r} is neither a file nor a tag of {recipe.model}; "
                f"tags: {', '.join(tags) or 'none'}"
            )
    return recipe.model


def _wants_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether open_clip knows that this tag was trained with QuickGELU."""
    if pretrained is None or Path(pretrained).is_file():
        return False
    return bool((open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu"))


def _identity(name: str, pretrained: str | None, transform: object) -> str:
    """Model, weights and preprocessing in one line; local weights by content, hub weights by name."""
    digest = hashlib.sha256(repr(transform).encode())
    local = []
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        digest.update(_canonical_config(folder / "open_clip_config.json"))
        local = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json")
        name = "local-dir"
    elif pretrained and Path(pretrained).is_file():
        local, pretrained = [Path(pretrained)], "file"
    for path in local:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    if _wants_quick_gelu(name, pretrained):
        digest.update(b"quick_gelu")
    return f"{name}@{pretrained or ''}#{digest.hexdigest()[:16]}"


def _canonical_config(path: Path) -> bytes:
    """An open_clip config without the names under which its text tower lies on this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config.get("model_cfg", {}).get("text_cfg", {})
    for key in ("hf_model_name", "hf_tokenizer_name"):
        text.pop(key, None)
    return json.dumps(config, sort_keys=True).encode()
