"""The student: a backbone, and the projector, linear head or both that its method puts on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from vl2v_deploy.errors import ModelError, did_you_mean
from vl2v_deploy.method.losses import StudentOutput
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.backbone_weights import load_backbone_file, load_backbone_state
from vl2v_deploy.models.efficientnet_lite import efficientnet_lite_state
from vl2v_deploy.models.image_sizes import size_options, why_not_built
from vl2v_deploy.models.teacher.load import load_image_tower
from vl2v_deploy.names import listed, shown
from vl2v_deploy.recipe import TEACHER_TOWER, Recipe, StudentRecipe, method_of


class Student(nn.Module):
    """F_s and what a method puts on top: projector P, linear head, or both. Source: VL2V-ADiP.

    Takes uint8 pixels as `client.preprocess` gives them and normalises them itself, so that the training
    graph and the exported graph have the same input.

    backbone:  (B, 3, S, S) -> (B, d_s)
    projector: (B, d_s) -> (B, D), or None
    head:      (B, d_s) -> (B, K), or None
    mean, std: of the backbone's input, in [0, 1] units
    frozen:    names of parameters inside the backbone that are never trained
    head_on:   what the head takes; `projected` = (B, D) of the projector, in place of (B, d_s)
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module | None,
        head: nn.Linear | None,
        mean: Sequence[float],
        std: Sequence[float],
        frozen: Sequence[str] = (),
        head_on: Literal["features", "projected"] = "features",
    ) -> None:
        super().__init__()
        self.head_on = head_on
        self.frozen = tuple(frozen)
        self.backbone = backbone
        self.projector = projector
        self.head = head
        self.mean: Tensor
        self.std: Tensor
        # In units of a uint8 pixel: one subtraction and one division in the graph instead of two and two.
        self.register_buffer("mean", 255.0 * torch.tensor(mean))
        self.register_buffer("std", 255.0 * torch.tensor(std))

    def normalize(self, images: Tensor) -> Tensor:
        """What the backbone takes: (x - mean) / std; float32 (B, 3, S, S), in channels-last memory order.

        images: uint8 (B, S, S, 3) RGB
        """
        # Cast before the transpose: TensorRT refuses to transpose uint8. Scaled after it: onnxruntime is slow
        # at broadcasting three values along the last axis. The permuted view stays in channels-last memory
        # order, the faster one for convolutions.
        x = images.float().permute(0, 3, 1, 2)  # (B, 3, S, S)
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def features(self, images: Tensor) -> Tensor:
        """F_s(x), the backbone's pooled features; (B, d_s).

        images: uint8 (B, S, S, 3) RGB
        """
        features: Tensor = self.backbone(self.normalize(images))  # (B, d_s)
        return features

    def output(self, features: Tensor) -> StudentOutput:
        """Projector's and head's output for features (B, d_s)."""
        projected = None if self.projector is None else self.projector(features)  # (B, D)
        if self.head is None:
            return StudentOutput(projected, None)
        return StudentOutput(projected, self.head(projected if self.head_on == "projected" else features))

    def forward(self, images: Tensor) -> StudentOutput:
        """Projector's and head's output for images, uint8 (B, S, S, 3) RGB."""
        return self.output(self.features(images))


def predict_logits(output: StudentOutput, text_emb: Tensor, logit_scale: float) -> Tensor:
    """The logits that a student predicts with, (B, K): its head's, else the zero-shot classifier's.

    text_emb:    (K, D) zero-shot classifier, L2-normalised
    logit_scale: s

    >>> both = StudentOutput(projected=torch.eye(2), class_logits=torch.tensor([[7.0, 8.0], [9.0, 6.0]]))
    >>> predict_logits(both, torch.eye(2), logit_scale=10.0)
    tensor([[7., 8.],
            [9., 6.]])
    >>> predict_logits(both._replace(class_logits=None), torch.eye(2), logit_scale=10.0)
    tensor([[10.,  0.],
            [ 0., 10.]])
    """
    if output.class_logits is not None:
        return output.class_logits
    assert output.projected is not None  # every student has a projector or a head
    return zero_shot_logits(output.projected, text_emb, logit_scale)


def build_student(recipe: Recipe, embedding_dim: int, classes: int, *, weights: bool = True) -> Student:
    """The student of a recipe of one method: pretrained backbone, new projector and head; in eval mode.

    A method that leaves no student has the pretrained backbone alone. Where the backbone is the teacher's
    image tower, it keeps its own projection, whose weights are frozen (`frozen_projection`) unless the recipe
    has student.projection: trained, and the projector is the identity.

    embedding_dim: D of the teacher
    classes:       K
    weights:       False leaves the backbone random, for loading a run's own weights into it, and dry runs

    Raises ModelError for an unknown backbone, weights that do not fit or cannot be had, or a tower of another
    image size than the recipe's.
    """
    method = method_of(recipe)
    if method.tower:
        return _tower_student(recipe, weights)
    backbone = _build_backbone(recipe.student, weights)
    mean, std = student_normalization(recipe)
    try:
        feature_dim = _feature_dim(backbone, recipe.student.image_size_px)
    except ModelError:
        raise
    except Exception as error:  # each backbone has errors of its own for a size that it cannot take
        raise why_not_built(recipe.student.backbone, recipe.student.image_size_px, error) from error
    projector = nn.Linear(feature_dim, embedding_dim) if "projector" in method.student else None
    head_dim = embedding_dim if method.head_on == "projected" else feature_dim
    head = nn.Linear(head_dim, classes) if "head" in method.student else None
    return Student(backbone, projector, head, mean, std, head_on=method.head_on).eval()


@torch.no_grad()
def start_head_as_classifier(student: Student, text_emb: Tensor) -> None:
    """A head on the projected embedding begins as the zero-shot classifier, text_emb (K, D), without bias."""
    assert student.head is not None and student.head_on == "projected"
    student.head.weight.copy_(text_emb)
    student.head.bias.zero_()


def frozen_projection(student: Student) -> list[str]:
    """Names of the tower's own projection parameters, the paper's P, where they are not trained.

    Empty for a student whose backbone is no tower: its P is `student.projector`.
    """
    return [f"backbone.{name}" for name in student.frozen]


def frozen_modules(student: Student, modules: Sequence[str]) -> list[str]:
    """Names of the parameters of some modules of the backbone.

    modules: their names within it, as in a recipe's distill.frozen

    Raises ModelError for a name that it does not have.
    """
    known = {name for name, _ in student.backbone.named_modules() if name}
    for name in modules:
        if name not in known:
            outer = [name for name, _ in student.backbone.named_children()]
            raise ModelError(
                f"distill.frozen: the backbone has no module {name!r}; it has {listed(outer, 10)}, and what "
                f"is within them{did_you_mean(name, known)}"
            )
    within = tuple(f"backbone.{name}." for name in modules)
    return [name for name, _ in student.named_parameters() if name.startswith(within)] if modules else []


def student_normalization(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in [0, 1] units, of the recipe's student; no weights are loaded.

    With normalization: faithful ImageNet's, whatever the student.

    Raises ModelError for an unknown backbone or tag.
    """
    if recipe.normalization == "faithful":
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if recipe.student.backbone == TEACHER_TOWER:
        tower = load_image_tower(recipe.teacher, "method: self_distill", weights=False)
        return tower.mean, tower.std
    _, cfg = _timm_model(recipe.student)
    return tuple(cfg.mean), tuple(cfg.std)


def _tower_student(recipe: Recipe, weights: bool) -> Student:
    tower = load_image_tower(recipe.teacher, "method: self_distill", weights=weights)
    if tower.size_px != recipe.student.image_size_px:
        raise ModelError(
            f"student.image_size_px: the teacher's image tower takes {tower.size_px}, got "
            f"{recipe.student.image_size_px}; set it to {tower.size_px}"
        )
    _feature_dim(tower.module, tower.size_px)
    frozen = tower.projection if recipe.student.projection == "frozen" else ()
    for name in frozen:
        tower.module.get_parameter(name).requires_grad_(False)
    mean, std = (tower.mean, tower.std) if recipe.normalization == "own" else student_normalization(recipe)
    return Student(tower.module, nn.Identity(), None, mean, std, frozen).eval()


def _timm_model(recipe: StudentRecipe) -> tuple[str, Any]:
    """timm's full name of the backbone, its weights' tag included, and its configuration."""
    if not timm.is_model(recipe.backbone):
        hint = did_you_mean(recipe.backbone, timm.list_models())
        raise ModelError(f"student.backbone: timm has no model {recipe.backbone!r}{hint}")
    tag = recipe.weights.partition(":")[2] if _from_timm(recipe) else ""
    name = f"{recipe.backbone}.{tag}" if tag else recipe.backbone
    try:
        cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise ModelError(f"student.weights: timm has no weights {tag!r} of {recipe.backbone}") from error
    return name, cfg


def _build_backbone(recipe: StudentRecipe, weights: bool) -> nn.Module:
    name, cfg = _timm_model(recipe)
    options = size_options(cfg, recipe.image_size_px)
    try:
        backbone: nn.Module = timm.create_model(
            name, pretrained=weights and _from_timm(recipe), num_classes=0, **options
        )
    except Exception as error:  # timm and the hub's client raise dozens of types for "cannot be had"
        raise why_not_built(name, recipe.image_size_px, error) from error
    if weights and recipe.weights == "builtin":
        load_backbone_state(backbone, _builtin_state(recipe.backbone), "student.weights: builtin")
    elif weights and recipe.is_weight_file:
        load_backbone_file(backbone, Path(recipe.weights), f"student.weights: {shown(recipe.weights)}")
    return backbone


def _from_timm(recipe: StudentRecipe) -> bool:
    return recipe.weights == "timm" or recipe.weights.startswith("timm:")


def _builtin_state(backbone: str) -> dict[str, Tensor]:
    match backbone:
        case "tf_efficientnet_lite0" | "tf_efficientnet_lite1" | "tf_efficientnet_lite2":
            return efficientnet_lite_state(backbone)
    raise ModelError(f"student.weights: builtin is for tf_efficientnet_lite0, 1 and 2, not {backbone}")


@torch.inference_mode()
def _feature_dim(backbone: nn.Module, size_px: int) -> int:
    """d_s as the backbone really gives it; timm's num_features leaves out some models' last layer."""
    was_training = backbone.training
    features = backbone.eval()(torch.zeros(1, 3, size_px, size_px))
    backbone.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelError(f"student.backbone: gives features of shape {got}, expected (B, d_s)")
    return int(features.shape[1])
