"""Which image sizes a timm backbone takes: an impossible one is told with those that are possible."""

from __future__ import annotations

from typing import Any

import timm
import torch

from vl2v_deploy.errors import ModelError, one_line

STEP_PX = 32  # most backbones halve their images five times


def size_options(cfg: Any, size_px: int) -> dict[str, Any]:
    """What `timm.create_model` must be told of the size.

    cfg: timm's pretrained configuration of the backbone
    """
    # ViTs: their position embeddings depend on the size
    return {"img_size": size_px} if cfg.fixed_input_size else {}


def why_not_built(name: str, size_px: int, error: Exception) -> ModelError:
    """The error to raise for a backbone that could not be built, or run at this size.

    name:  timm's, with or without the tag of its weights
    error: what timm or torch said
    """
    if _takes(name, size_px):  # then it is its weights, or the hub
        return ModelError(f"student: {name} cannot be built: {one_line(error)}")
    own = timm.models.get_pretrained_cfg(name).input_size[1]
    below = size_px - size_px % STEP_PX
    possible = [size for size in sorted({below, below + STEP_PX, own}) if size > 0 and _takes(name, size)]
    if not possible:
        return ModelError(f"student.backbone: {name} cannot be built or run: {one_line(error)}")
    sizes = " or ".join(f"{size} (timm's own)" if size == own else str(size) for size in possible)
    return ModelError(
        f"student.image_size_px: {name} cannot take {size_px}, try {sizes}; timm says {one_line(error)}"
    )


@torch.inference_mode()
def _takes(name: str, size_px: int) -> bool:
    options = size_options(timm.models.get_pretrained_cfg(name), size_px)
    try:
        timm.create_model(name, num_classes=0, **options).eval()(torch.zeros(1, 3, size_px, size_px))
    except Exception:  # each backbone has errors of its own for this
        return False
    return True
