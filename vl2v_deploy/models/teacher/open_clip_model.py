"""open_clip models: built with their weights or from their config alone, and identified."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from vl2v_deploy.data.cache import cache_dir, made_in_cache
from vl2v_deploy.errors import ModelError, did_you_mean, one_line
from vl2v_deploy.models.teacher.builtin import assemble_teacher
from vl2v_deploy.recipe import OpenClipRecipe
from vl2v_deploy.regular_files import read_text

CONFIG = "open_clip_config.json"


def create_model(name: str, pretrained: str | None, *, weights: bool) -> tuple[Any, Any]:
    """open_clip's model on the CPU and its evaluation transform; no code that comes with it is run.

    Raises ModelError when it cannot be had.
    """
    # open_clip only warns of a tag trained with QuickGELU (OpenAI's) put into a model built without it,
    # which then answers a little wrong.
    quick_gelu = wants_quick_gelu(name, pretrained)
    try:
        with _without_questions():
            return _created(name, pretrained, quick_gelu, weights=weights)
    except ModelError:
        raise
    except Exception as error:  # open_clip and the hub's client raise many types for "cannot be had"
        raise ModelError(f"teacher: {name} cannot be loaded: {one_line(error)}") from error


def tokenizer_of(name: str) -> Any:
    """open_clip's tokenizer of a model; no code that comes with it is run.

    Raises ModelError when it cannot be had, and for a config that asks for code of its own to be run.
    """
    try:
        if "trust_remote_code" in _tokenizer_settings(name):
            raise ModelError(f"teacher: {name}: its {CONFIG} sets trust_remote_code, which is refused")
        with _without_questions():
            return open_clip.get_tokenizer(name)
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises many types for "cannot be had"
        raise ModelError(f"teacher: {name}: its tokenizer cannot be loaded: {one_line(error)}") from error


def _tokenizer_settings(name: str) -> dict[str, Any]:
    """What the config of a local or hub model has open_clip hand to transformers; empty for its own."""
    if name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:"), CONFIG)
    elif name.startswith("hf-hub:"):
        path = Path(download_pretrained_from_hf(name.removeprefix("hf-hub:"), filename=CONFIG))
    else:
        return {}
    config = json.loads(read_text(path))
    return dict(config.get("model_cfg", {}).get("text_cfg", {}).get("tokenizer_kwargs", {}))


@contextmanager
def _without_questions() -> Iterator[None]:
    """Keeps transformers, on which some of open_clip's models are built, from asking whether to run code.

    It reads the answer from standard input; with no time to wait for one it raises an error instead.
    """
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        yield
        return
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def _created(name: str, pretrained: str | None, quick_gelu: bool, *, weights: bool) -> tuple[Any, Any]:
    if weights:
        # require_pretrained: of weights that are not there, too, it only warns
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, require_pretrained=True, force_quick_gelu=quick_gelu
        )
        return model, transform
    tag = (open_clip.get_pretrained_cfg(name, pretrained) or {}) if pretrained else {}
    with _config_only(name) as source, _without_warnings():
        model, _, transform = open_clip.create_model_and_transforms(
            source,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=quick_gelu,
            **{f"image_{key}": tag.get(key) for key in ("mean", "std", "interpolation", "resize_mode")},
        )
        return model, transform


@contextmanager
def _config_only(name: str) -> Iterator[str]:
    """The model's open_clip name; of an hf-hub: model a local-dir: of its config alone.

    Given an hf-hub: name, open_clip downloads the weights even where it is asked not to load them.
    """
    if not name.startswith("hf-hub:"):
        yield name
        return
    try:
        config = download_pretrained_from_hf(name.removeprefix("hf-hub:"), filename=CONFIG)
    except Exception as error:  # see above
        raise ModelError(
            f"teacher.model: {name}: its shapes are in a config on the hub, which cannot be had here "
            f"({type(error).__name__}); go online once, or use local-dir: or an open_clip model name"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(config, Path(folder) / CONFIG)
        yield f"local-dir:{folder}"


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open_clip warns that weights are random; here they are meant to be."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def tower_size_px(visual: Any) -> int:
    """Side of the square input of an open_clip image tower; ModelError when it is not square."""
    size = visual.image_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height != width:
        raise ModelError(
            f"teacher: takes images of {height} x {width} pixels; only square ones are supported"
        )
    return int(height)


def projection_parameters(tower: nn.Module) -> list[str]:
    """Names of the parameters of an open_clip image tower's last map into the embedding space; else none.

    That is, `proj` of a VisionTransformer, `attnpool.c_proj` of a ModifiedResNet, and of a timm tower the
    end of its head, or the classifier of its trunk where open_clip uses that as the projection.
    """
    match tower:
        case VisionTransformer():
            return ["proj"] if isinstance(tower.proj, nn.Parameter) else []
        case ModifiedResNet():
            prefixes = ["attnpool.c_proj."]
        case TimmModel():
            last = tower.trunk.get_classifier()
            inside = {name for name, module in tower.trunk.named_modules() if module is last}
            prefixes = ["head.proj.", "head.mlp.", "head.pool.proj.", *(f"trunk.{name}." for name in inside)]
        case _:
            return []
    return [name for name, _ in tower.named_parameters() if name.startswith(tuple(prefixes))]


def open_clip_name(recipe: OpenClipRecipe, *, weights: bool = True) -> str:
    """The name under which open_clip knows the recipe's teacher; the built-in one is put together first.

    weights: False for a model whose weights file may be missing

    Raises ModelError for a name, tag or folder that does not exist.
    """
    if recipe.model.startswith("builtin:"):
        with made_in_cache("the built-in teacher"):
            return f"local-dir:{assemble_teacher(cache_dir())}"
    if recipe.model.startswith("local-dir:"):
        folder = Path(recipe.model.removeprefix("local-dir:"))
        if not (folder / CONFIG).is_file():
            raise ModelError(f"teacher.model: {folder}: holds no {CONFIG}")
    elif not recipe.model.startswith("hf-hub:"):
        if recipe.model not in open_clip.list_models():
            hint = did_you_mean(recipe.model, open_clip.list_models())
            raise ModelError(f"teacher.model: open_clip has no model {recipe.model!r}{hint}")
        tags = open_clip.list_pretrained_tags_by_model(recipe.model)
        if weights and recipe.pretrained not in tags and not Path(recipe.pretrained or "").is_file():
            raise ModelError(
                f"teacher.pretrained: {recipe.pretrained!r} is neither a file nor a tag of {recipe.model}; "
                f"tags: {', '.join(tags) or 'none'}"
            )
    return recipe.model


def wants_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether open_clip knows that this tag was trained with QuickGELU."""
    if pretrained is None or Path(pretrained).is_file():
        return False
    return bool((open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu"))


def model_identity(name: str, pretrained: str | None, transform: object) -> str:
    """Model, weights and preprocessing in one line; local weights by content, hub weights by name."""
    digest = hashlib.sha256(repr(transform).encode())
    local = []
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        digest.update(_canonical_config(folder / CONFIG))
        local = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json")
        name = "local-dir"
    elif pretrained and Path(pretrained).is_file():
        local, pretrained = [Path(pretrained)], "file"
    for path in local:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    if wants_quick_gelu(name, pretrained):
        digest.update(b"quick_gelu")
    return f"{name}@{pretrained or ''}#{digest.hexdigest()[:16]}"


def _canonical_config(path: Path) -> bytes:
    """An open_clip config without the names under which its text tower lies on this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config.get("model_cfg", {}).get("text_cfg", {})
    for key in ("hf_model_name", "hf_tokenizer_name"):
        text.pop(key, None)
    return json.dumps(config, sort_keys=True).encode()
