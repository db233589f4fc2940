"""The student: a timm backbone and a linear projector into the teacher's embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict as read_checkpoint
from torch import Tensor, nn

from vl2v_deploy.errors import ModelError, did_you_mean
from vl2v_deploy.models.builtin import efficientnet_lite_state
from vl2v_deploy.recipe import StudentRecipe


class Student(nn.Module):
    """P(F_s(x)): pixels in, projected embedding out. Source: VL2V-ADiP, the black-box setting.

    Takes uint8 pixels as `client.preprocess` gives them and normalises them itself, so that the training
    graph and the exported graph have the same input.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        embedding_dim: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Linear(feature_dim, embedding_dim)
        self.mean: Tensor
        self.std: Tensor
        # In units of a uint8 pixel: one subtraction and one division in the graph instead of two and two.
        self.register_buffer("mean", 255.0 * torch.tensor(mean))
        self.register_buffer("std", 255.0 * torch.tensor(std))

    def features(self, images: Tensor) -> Tensor:
        """F_s(x), the backbone's pooled features; (B, d_s).

        images: uint8 (B, S, S, 3) RGB
        """
        # Cast before the transpose: TensorRT refuses to transpose uint8. The permuted view is already
        # in channels-last memory order, the faster one for convolutions.
        x = (images.float() - self.mean) / self.std  # (B, S, S, 3)
        features: Tensor = self.backbone(x.permute(0, 3, 1, 2))  # (B, d_s)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """P(F_s(x)), not normalised; (B, D).

        images: uint8 (B, S, S, 3) RGB
        """
        projected: Tensor = self.projector(self.features(images))
        return projected


def build_student(recipe: StudentRecipe, embedding_dim: int, *, weights: bool = True) -> Student:
    """The student of a recipe, pretrained backbone and fresh projector, in eval mode.

    embedding_dim: D of the teacher
    weights:       False leaves the backbone random, for loading a run's own weights into it

    Raises ModelError for an unknown backbone, weights that do not fit or cannot be had.
    """
    backbone, mean, std = _build_backbone(recipe, weights)
    feature_dim = _feature_dim(backbone, recipe.image_size_px)
    return Student(backbone, feature_dim, embedding_dim, mean, std).eval()


def _build_backbone(
    recipe: StudentRecipe, weights: bool
) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    if not timm.is_model(recipe.backbone):
        hint = did_you_mean(recipe.backbone, timm.list_models())
        raise ModelError(f"student.backbone: timm has no model {recipe.backbone!r}{hint}")
    from_timm = recipe.weights == "timm" or recipe.weights.startswith("timm:")
    tag = recipe.weights.partition(":")[2] if from_timm else ""
    name = f"{recipe.backbone}.{tag}" if tag else recipe.backbone
    try:
        cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise ModelError(f"student.weights: timm has no weights {tag!r} of {recipe.backbone}") from error
    options: dict[str, Any] = {"num_classes": 0}
    if cfg.fixed_input_size:  # ViTs: their position embeddings depend on the size
        options["img_size"] = recipe.image_size_px
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=weights and from_timm, **options)
    except Exception as error:  # timm and the hub's client raise dozens of types for "cannot be had"
        raise ModelError(f"student: {name} cannot be built: {type(error).__name__}: {error}") from error
    if weights and recipe.weights == "builtin":
        _load_state(backbone, _builtin_state(recipe.backbone), "student.weights: builtin")
    elif weights and not from_timm:
        _load_state(backbone, _file_state(recipe.weights), f"student.weights: {recipe.weights}")
    return backbone, cfg.mean, cfg.std


def _builtin_state(backbone: str) -> dict[str, Tensor]:
    match backbone:
        case "tf_efficientnet_lite0" | "tf_efficientnet_lite1" | "tf_efficientnet_lite2":
            return efficientnet_lite_state(backbone)
    raise ModelError(f"student.weights: builtin is for tf_efficientnet_lite0, 1 and 2, not {backbone}")


def _file_state(file: str) -> dict[str, Tensor]:
    if not Path(file).is_file():
        raise ModelError(f"student.weights: {file}: no such file (nor 'timm', 'timm:TAG' or 'builtin')")
    try:
        # weights_only: a checkpoint is data, it must not run code
        state: dict[str, Tensor] = read_checkpoint(file, use_ema=False, weights_only=True)
    except Exception as error:  # each format has its own family of errors
        raise ModelError(f"student.weights: {file}: not a checkpoint: {error}") from error
    return state


def _load_state(backbone: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load what the headless backbone has; weights of the removed head may be left over, nothing else."""
    wanted = backbone.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    head = {"classifier", "head", "fc", "head_dist"}
    unknown = [key for key in state.keys() - wanted.keys() if key.split(".")[0] not in head]
    wrong = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    for what, keys in (
        ("missing", missing),
        ("unknown", sorted(unknown)),
        ("of another shape", sorted(wrong)),
    ):
        if keys:
            raise ModelError(f"{source}: {len(keys)} weight(s) {what}, the first is {keys[0]}")
    backbone.load_state_dict({key: state[key] for key in wanted})


@torch.inference_mode()
def _feature_dim(backbone: nn.Module, size_px: int) -> int:
    """d_s as the backbone really gives it; timm's num_features leaves out some models' last layer."""
    was_training = backbone.training
    features = backbone.eval()(torch.zeros(1, 3, size_px, size_px))
    backbone.train(was_training)
    if features.ndim != 2:
        raise ModelError(
            f"student.backbone: gives features of shape {tuple(features.shape)}, expected (B, d_s)"
        )
    return int(features.shape[1])
