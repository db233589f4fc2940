"""What the comparison runs on: EmojiDG on a processor, or CLIP ViT-B/16 with two students on a GPU.

The GPU scenarios need no download: generated images, and random weights unless pretrained ones are asked for.
Random weights take as long as trained ones; their accuracies mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.recipe import Recipe, load_recipe

Scenario = Literal["emojidg-cpu", "gpu-vit-b16", "gpu-deit-s"]
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
GPU_STUDENTS = {"gpu-vit-b16": "vit_base_patch16_224", "gpu-deit-s": "deit_small_distilled_patch16_224"}
GPU_TEACHER, GPU_TEACHER_TAG = "ViT-B-16", "openai"
# As many classes and domains as PACS and pictures of its size, but a quarter of its number.
DOMAINS, CLASSES, PER_CLASS, PICTURE_PX = 4, 7, 90, 227
GPU_RECIPE = """
data: {{root: {data}, target: domain0, split: domainbed}}
teacher: {teacher}
student: {{backbone: {backbone}, weights: {weights}}}
align: {{steps: 300, evaluate_every: 100}}
distill: {{steps: 300, evaluate_every: 100, workers: 8}}
"""


def scenario_recipe(
    scenario: Scenario, overrides: Sequence[str], folder: Path, *, pretrained: bool = False
) -> Recipe:
    """The recipe of a scenario; what it needs beside the package is written to `folder`.

    overrides:  'field.subfield=value' each, among them the device
    pretrained: the GPU scenarios load published weights instead of making random ones

    Raises BenchmarkError for a GPU scenario on a processor; RecipeError for an override.
    """
    if scenario == "emojidg-cpu":
        return load_recipe(QUICKSTART, overrides)
    if not any(override.startswith("device=cuda") for override in overrides):
        raise BenchmarkError(
            f"--scenario {scenario}: needs a GPU, got --device cpu; pass --device cuda where there is one, "
            "or use --scenario emojidg-cpu"
        )
    backbone = GPU_STUDENTS[scenario]
    write_pictures(folder / "pictures", PER_CLASS, PICTURE_PX)
    if pretrained:
        teacher, weights = f"{{model: {GPU_TEACHER}, pretrained: {GPU_TEACHER_TAG}}}", "timm"
    else:
        teacher = f'{{model: "local-dir:{write_random_teacher(folder / "teacher", GPU_TEACHER)}"}}'
        weights = str(write_random_backbone(folder / "backbone.safetensors", backbone))
    path = folder / "recipe.yaml"
    path.write_text(
        GPU_RECIPE.format(data=folder / "pictures", teacher=teacher, backbone=backbone, weights=weights)
    )
    return load_recipe(path, overrides)


def write_random_teacher(folder: Path, name: str) -> Path:
    """An open_clip `local-dir:` model of this architecture with random weights."""
    config = open_clip.get_model_config(name)
    preprocessing = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing})
    )
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_random_backbone(path: Path, name: str) -> Path:
    """A checkpoint of a timm model with random weights."""
    torch.manual_seed(1)
    save_file(timm.create_model(name).state_dict(), path)
    return path


def write_pictures(root: Path, per_class: int, size_px: int) -> Path:
    """Generated JPEGs as root/domain/class/image: a grating at the class's angle, tinted by domain, noisy.

    per_class: pictures of each class in each domain
    size_px:   side of the squares
    """
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(*[np.linspace(-1, 1, size_px)] * 2)
    for domain in range(DOMAINS):
        tint = rng.uniform(0.4, 1.0, size=3)
        for label in range(CLASSES):
            folder = root / f"domain{domain}" / f"class{label}"
            folder.mkdir(parents=True)
            angle = np.pi * label / CLASSES
            for number in range(per_class):
                waves = np.sin(20 * (np.cos(angle) * across + np.sin(angle) * down) + rng.uniform(0, 6))
                noisy = 0.5 + 0.3 * waves + rng.normal(0, 0.1, waves.shape)  # (S, S)
                pixels = (255 * tint * noisy.clip(0, 1)[..., None]).astype(np.uint8)  # (S, S, 3)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root
