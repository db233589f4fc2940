"""A whole path in seconds: a tiny open_clip teacher, a tiny timm student, 60 small images; weights random."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import save_file

TEACHER_CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
BACKBONE = "test_efficientnet"  # timm's own model for tests: 0.4 M parameters, with BatchNorm

RECIPE = """
data: {{root: {data}, target: photo}}
teacher: {{model: "local-dir:{teacher}", batch_size: 16}}
student: {{backbone: {backbone}, weights: {weights}, image_size_px: 32}}
align: {{steps: 12, batch_per_domain: 4, learning_rate: 1.0e-2}}
distill: {{steps: 4, batch_per_domain: 4, learning_rate: 1.0e-3}}
"""


def write_teacher(folder: Path, seed: int = 0) -> Path:
    """An open_clip `local-dir:` model with random weights."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(TEACHER_CONFIG))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TEACHER_CONFIG["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_backbone_weights(path: Path) -> Path:
    """A checkpoint with a classifier head, as timm publishes them."""
    torch.manual_seed(1)
    save_file(timm.create_model(BACKBONE).state_dict(), path)
    return path


def write_recipe(folder: Path, data: Path) -> Path:
    """A recipe for the folder of domains `data`, with its teacher and weights beside it."""
    teacher = write_teacher(folder / "teacher")
    weights = write_backbone_weights(folder / "backbone.safetensors")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(data=data, teacher=teacher, backbone=BACKBONE, weights=weights))
    return path
