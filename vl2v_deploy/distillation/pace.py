"""How long an optimizer step of a stage takes: measured with random weights on generated images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vl2v_deploy.distillation.guidance import Texts, guidance_texts, language_guidance
from vl2v_deploy.distillation.train.loop import Batch, optimizer_step
from vl2v_deploy.distillation.train.objectives import loss_of, optimizer_of, trained_parameters
from vl2v_deploy.distillation.train.stages import FrozenBackbone
from vl2v_deploy.method.losses import StudentOutput, Targets
from vl2v_deploy.models.depthwise import with_depthwise_gradients
from vl2v_deploy.models.student import Student, build_student, student_normalization
from vl2v_deploy.models.teacher.load import load_white_box
from vl2v_deploy.models.teacher.protocol import WhiteBox
from vl2v_deploy.recipe import (
    OpenClipRecipe,
    Recipe,
    StageName,
    asks_about_training_images,
    method_of,
    unlabelled_per_step,
)

WARM_UP, MEASURED = 2, 5  # steps
FEW = 4  # images in the first steps
DIM, LOGIT_SCALE = 512, 100.0  # in place of the teacher's, which change a step's time hardly


class Pace(NamedTuple):
    """Optimizer steps of a stage as they were measured.

    step_s: seconds of the fastest step, which other programs delayed least
    images: in each
    steps:  how many were measured, after warm-up
    """

    step_s: float
    images: int
    steps: int

    def of(self, images: int) -> float:
        """Seconds of a step of so many images, scaled by their number.

        >>> Pace(step_s=0.5, images=8, steps=5).of(96)
        6.0
        """
        return self.step_s * images / self.images


def measure_pace(
    recipe: Recipe,
    stage: StageName,
    images: int,
    classes: Sequence[str],
    domains: Sequence[str],
    device: torch.device,
    within_s: float,
) -> Pace:
    """The pace of a stage of a recipe of one method, without decoding, evaluations and checkpoints.

    With `teacher_views: online` a teacher in this process is asked in each step, as in training.

    images:           in a step of the training; fewer are measured where so many would take too long
    classes, domains: of the data, whose images are not read
    within_s:         seconds that measuring may take, about; some steps are always measured

    Raises what building the models raises.
    """
    step = _step_of(recipe, stage, classes, domains, images, device)
    counted = min(FEW, images)
    for _ in range(WARM_UP):
        step(counted)
    # Part of a step takes as long whatever its images: few of them say little of many, so as many as can be.
    while counted < images:
        more = min(2 * counted, images)
        if (1 + MEASURED) * step(counted) * more / counted > within_s:
            break
        counted = more
    step(counted)  # memory of this size is reserved, and kernels for it are chosen
    return Pace(min(step(counted) for _ in range(MEASURED)), counted, MEASURED)


def _step_of(
    recipe: Recipe,
    stage: StageName,
    classes: Sequence[str],
    domains: Sequence[str],
    most: int,
    device: torch.device,
) -> Callable[[int], float]:
    """A function that trains on so many images, at most `most`, and returns the seconds that it took."""
    torch.manual_seed(recipe.seed)
    online = recipe.teacher_views == "online"
    teacher = _online_teacher(recipe, most, device) if online else None
    dim = teacher.embedding_dim if teacher else DIM
    student = build_student(recipe, dim, len(classes), weights=False)
    student = student.to(device).to(memory_format=torch.channels_last)
    size_px = recipe.student.image_size_px
    images = torch.randint(256, (most, size_px, size_px, 3), dtype=torch.uint8, device=device)
    inputs, model = _inputs(student, stage, images, online=online)
    forward = with_depthwise_gradients(model)
    targets_of = _targets(recipe, stage, student, images, classes, domains, dim)
    student.requires_grad_(False)
    parameters = trained_parameters(student, recipe, stage)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = optimizer_of(recipe, stage, parameters)

    def loss(output: StudentOutput, batch: Batch) -> Tensor:
        return loss_of(recipe, stage, output, targets_of(batch))

    def step(count: int) -> float:
        _finish(device)
        started = time.perf_counter()
        asked = None if teacher is None else _ask(teacher, images[:count])
        batch = Batch(inputs[:count], torch.arange(count, device=device), asked, count)
        bf16 = stage == "distill" and recipe.distill.precision == "bf16"
        optimizer_step(forward, loss, optimizer, batch, bf16=bf16)
        _finish(device)
        return time.perf_counter() - started

    return step


def _inputs(
    student: Student, stage: StageName, images: Tensor, *, online: bool
) -> tuple[Tensor, Callable[[Tensor], StudentOutput]]:
    """What a stage's model takes, and the model: Align works on features, with online views on images."""
    if stage == "distill":
        return images, student
    if online:
        return images, FrozenBackbone(student)
    with torch.no_grad():
        dim = student.features(images[:1]).shape[1]
    return torch.randn(len(images), dim, device=images.device), student.output


def _targets(
    recipe: Recipe,
    stage: StageName,
    student: Student,
    images: Tensor,
    classes: Sequence[str],
    domains: Sequence[str],
    dim: int,
) -> Callable[[Batch], Targets]:
    """Random targets of the right shape for each batch."""
    device = images.device
    with torch.no_grad():
        projected = student(images[:1]).projected
    dim = dim if projected is None else projected.shape[1]  # a tower has a dimension of its own

    def embeddings(count: int) -> Tensor:
        return F.normalize(torch.randn(count, dim, device=device), dim=1)

    def classifier(prompts: Texts) -> Tensor:
        return embeddings(len(prompts))

    texts = guidance_texts(recipe, classes, domains)
    guidance = None if texts is None else language_guidance(texts, classifier)
    text_emb, image_emb = embeddings(len(classes)), embeddings(len(images))
    labels = torch.arange(len(images), device=device) % len(classes)
    asks, unlabelled = asks_about_training_images(recipe), unlabelled_per_step(recipe, stage)

    def targets(batch: Batch) -> Targets:
        count = len(batch.rows)
        # With images without labels the last one stands for them.
        labelled = batch.rows < count - 1 if unlabelled else None
        given = batch.image_emb if batch.image_emb is not None else image_emb[:count]
        return Targets(
            labels[:count],
            given if asks else None,
            text_emb,
            LOGIT_SCALE,
            labelled,
            guidance=guidance,
        )

    return targets


def _online_teacher(recipe: Recipe, images: int, device: torch.device) -> WhiteBox | None:
    """The teacher that each step asks, with random weights; None where it is not asked, or not here."""
    if not asks_about_training_images(recipe) or not isinstance(recipe.teacher, OpenClipRecipe):
        return None
    few = recipe.teacher
    if device.type == "cpu":  # it fills each question up to its batch size; here fewer images are measured
        few = few.model_copy(update={"batch_size": min(FEW, images)})
    teacher = load_white_box(few, "a dry run", str(device), weights=False)
    if recipe.normalization == "faithful":
        return teacher.fed_by_student(*student_normalization(recipe), recipe.student.image_size_px)
    return teacher


def _ask(teacher: WhiteBox, images: Tensor) -> Tensor:
    return torch.cat([teacher.embed_pixels(part) for part in images.split(teacher.batch_size)])


def _finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def asks_elsewhere(recipe: Recipe) -> bool:
    """Whether each step asks a teacher whose time is not in its pace."""
    asks = recipe.teacher_views == "online" and asks_about_training_images(recipe)
    return asks and bool(method_of(recipe).stages) and not isinstance(recipe.teacher, OpenClipRecipe)
