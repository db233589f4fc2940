"""`vl2v-deploy distill --dry-run`: a recipe's models with random weights, one step of each stage, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from vl2v_deploy.data.prompts import class_prompts, named_classes
from vl2v_deploy.distillation.guidance import guidance_texts, language_guidance
from vl2v_deploy.distillation.train.objectives import loss_of, optimizer_of, trained_parameters
from vl2v_deploy.errors import ModelError
from vl2v_deploy.method.losses import Targets
from vl2v_deploy.models.student import (
    Student,
    build_student,
    start_head_as_classifier,
    student_normalization,
)
from vl2v_deploy.models.teacher.load import load_white_box
from vl2v_deploy.models.teacher.protocol import WhiteBox, prompt_classifier, require_logit_scale
from vl2v_deploy.recipe import (
    ProtocolName,
    ProtocolSetting,
    Recipe,
    StageName,
    asks_about_training_images,
    method_of,
    methods_of,
    protocol_name,
    protocol_settings,
    recipe_of_method,
    stages_of,
    trains_on_unlabelled,
)

# In place of the recipe's data, which a dry run does not read.
CLASSES, DOMAINS = ("first_class", "second_class"), ("first_domain", "second_domain")
IMAGES = 2  # of each domain


@dataclass(frozen=True)
class DryRun:
    """What one method of the recipe would train.

    parameters: of the student as it is deployed
    losses:     of the one step of each stage, on generated images
    protocol:   whose settings it has
    settings:   in which the authors' code departs from our defaults
    """

    method: str
    teacher: str
    student: str
    parameters: int
    embedding_dim: int
    losses: dict[str, float]
    protocol: ProtocolName
    settings: tuple[ProtocolSetting, ...]


def untrained_teacher(recipe: Recipe) -> WhiteBox:
    """The recipe's teacher with random weights, on the CPU; raises what building it raises."""
    # A teacher fills what it is asked up to its batch size, which would be most of the work here.
    few = recipe.teacher.model_copy(update={"batch_size": IMAGES * len(DOMAINS)})
    teacher = load_white_box(few, "a dry run", weights=False)
    if recipe.normalization == "faithful":
        return teacher.fed_by_student(*student_normalization(recipe), recipe.student.image_size_px)
    return teacher


def dry_run(recipe: Recipe, teacher: WhiteBox | None = None) -> list[DryRun]:
    """One optimizer step of every stage of every method, on noise of the right shape, on the CPU.

    teacher: the recipe's `untrained_teacher`, where it is there already

    Raises what building the models or the prompts raises; ModelError for a loss that is not finite.
    """
    device = torch.device("cpu")  # the recipe's own device may be missing here
    built = teacher or untrained_teacher(recipe)
    classes = tuple(dict.fromkeys((*named_classes(recipe.prompts, recipe.data), *CLASSES)))
    return [
        _dry_run(recipe_of_method(recipe, method), built, classes, device) for method in methods_of(recipe)
    ]


def _dry_run(recipe: Recipe, teacher: WhiteBox, classes: Sequence[str], device: torch.device) -> DryRun:
    prompts = class_prompts(recipe.prompts, recipe.data, classes, DOMAINS, DOMAINS[-1])
    text_emb = prompt_classifier(teacher, prompts).to(device)
    texts = guidance_texts(recipe, classes, DOMAINS)
    guidance = None if texts is None else language_guidance(texts, partial(prompt_classifier, teacher))
    [method] = methods_of(recipe)
    if not method_of(recipe).student:
        return DryRun(
            method=method,
            teacher=teacher.identity,
            student="none",
            parameters=0,
            embedding_dim=teacher.embedding_dim,
            losses={},
            protocol=protocol_name(recipe),
            settings=protocol_settings(recipe),
        )
    torch.manual_seed(recipe.seed)
    student = build_student(recipe, teacher.embedding_dim, len(classes), weights=False).to(device)
    size_px = recipe.student.image_size_px
    images = torch.randint(
        256, (IMAGES * len(DOMAINS), size_px, size_px, 3), dtype=torch.uint8, device=device
    )
    labels = torch.arange(len(images), device=device) % len(classes)
    image_emb = teacher.embed_pixels(images).to(device) if asks_about_training_images(recipe) else None
    # With images without labels the last one stands for them.
    labelled = torch.arange(len(images), device=device) < len(images) - 1
    targets = Targets(
        labels,
        image_emb,
        text_emb,
        require_logit_scale(teacher),
        labelled if trains_on_unlabelled(recipe) else None,
        guidance=guidance,
    )
    if guidance is not None:
        start_head_as_classifier(student, guidance.text_emb)
    return DryRun(
        method=method,
        teacher=teacher.identity,
        student=recipe.student.backbone,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        embedding_dim=teacher.embedding_dim,
        losses={stage: _step(student, recipe, stage, images, targets) for stage in stages_of(recipe)},
        protocol=protocol_name(recipe),
        settings=protocol_settings(recipe),
    )


def _step(
    student: Student, recipe: Recipe, stage: StageName, images: torch.Tensor, targets: Targets
) -> float:
    student.requires_grad_(False)
    parameters = trained_parameters(student, recipe, stage)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = optimizer_of(recipe, stage, parameters)
    loss = loss_of(recipe, stage, student(images), targets)
    loss.backward()
    optimizer.step()
    value = loss.item()
    if not torch.isfinite(loss):
        raise ModelError(f"{stage}: the loss of a step on random weights is {value}")
    return value
