"""`vl2v-deploy distill --dry-run`: does a recipe fit together? Models without weights, one step, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vl2v_deploy.data.prompts import class_prompts, named_classes
from vl2v_deploy.distillation.train.objectives import (
    Targets,
    loss_of,
    needs_images_of_teacher,
    stages_of,
    trained_parameters,
)
from vl2v_deploy.distillation.train.stages import single_method
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.student import Student, build_student, student_normalization, trains_student
from vl2v_deploy.models.teacher.open_clip import Teacher, config_teacher, faithful_teacher, prompt_classifier
from vl2v_deploy.recipe import Recipe, methods_of, recipe_of_method

# What stands in for data that need not be there.
CLASSES, DOMAINS = ("first_class", "second_class"), ("first_domain", "second_domain")
IMAGES = 2  # of each domain


@dataclass(frozen=True)
class DryRun:
    """What one method of the recipe would train.

    parameters: of the student as it is deployed
    losses:     of the one step of each stage, on generated images
    """

    method: str
    teacher: str
    student: str
    parameters: int
    embedding_dim: int
    losses: dict[str, float]


def dry_run(recipe: Recipe) -> list[DryRun]:
    """One optimizer step of every stage of every method, on noise of the right shape, on the CPU.

    Raises what building the models or the prompts raises; ModelError for a loss that is not finite.
    """
    device = torch.device("cpu")  # the recipe's own need not be here for this
    teacher = config_teacher(recipe.teacher, "cpu")
    classes = tuple(dict.fromkeys((*named_classes(recipe.prompts, recipe.data), *CLASSES)))
    if recipe.normalization == "faithful":
        teacher = faithful_teacher(teacher, *student_normalization(recipe), recipe.student.image_size_px)
    # A teacher fills what it is asked up to its batch size, which would be most of the work here.
    teacher = replace(teacher, batch_size=IMAGES * len(DOMAINS))
    return [
        _dry_run(recipe_of_method(recipe, method), teacher, classes, device) for method in methods_of(recipe)
    ]


def _dry_run(recipe: Recipe, teacher: Teacher, classes: Sequence[str], device: torch.device) -> DryRun:
    prompts = class_prompts(recipe.prompts, recipe.data, classes, DOMAINS, DOMAINS[-1])
    text_emb = prompt_classifier(teacher, prompts).to(device)
    method = single_method(recipe)
    if not trains_student(method):
        return DryRun(method, teacher.identity, "none", 0, teacher.embedding_dim, {})
    torch.manual_seed(recipe.seed)
    student = build_student(recipe, teacher.embedding_dim, len(classes), weights=False).to(device)
    size_px = recipe.student.image_size_px
    images = torch.randint(
        256, (IMAGES * len(DOMAINS), size_px, size_px, 3), dtype=torch.uint8, device=device
    )
    labels = torch.arange(len(images), device=device) % len(classes)
    image_emb = teacher.embed_pixels(images).to(device) if needs_images_of_teacher(recipe) else None
    targets = Targets(labels, image_emb, text_emb, teacher.logit_scale)
    return DryRun(
        method=method,
        teacher=teacher.identity,
        student=recipe.student.backbone,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        embedding_dim=teacher.embedding_dim,
        losses={stage: _step(student, recipe, stage, images, targets) for stage in stages_of(method)},
    )


def _step(student: Student, recipe: Recipe, stage: str, images: torch.Tensor, targets: Targets) -> float:
    settings = recipe.align if stage == "align" else recipe.distill
    student.requires_grad_(False)
    parameters = trained_parameters(student, single_method(recipe), stage)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(list(parameters.values()), lr=settings.learning_rate)
    loss = loss_of(recipe, settings, student(images), targets)
    loss.backward()
    optimizer.step()
    value = loss.item()
    if not torch.isfinite(loss):
        raise ModelError(f"{stage}: the loss of a step on random weights is {value}")
    return value
