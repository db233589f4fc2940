"""The two training stages. Source: VL2V-ADiP, Align and Distill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vl2v_deploy.data.augment import Augment
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.sampling import StepBatches, batch_indices, domain_rows
from vl2v_deploy.distill.progress import StageProgress
from vl2v_deploy.method.losses import adip_loss
from vl2v_deploy.models.student import Student
from vl2v_deploy.recipe import AlignRecipe, DistillRecipe


@dataclass(frozen=True)
class TrainingSet:
    """The sources' training images and what the teacher says of them; tensors on the training device.

    samples:   N of them
    domains:   the source domains
    labels:    (N,) class indices
    image_emb: (N, D) teacher embedding of each un-augmented image
    text_emb:  (K, D) zero-shot classifier
    """

    samples: Sequence[Sample]
    domains: Sequence[str]
    labels: Tensor
    image_emb: Tensor
    text_emb: Tensor

    def loss(self, projected: Tensor, rows: Tensor, image_weight: float) -> Tensor:
        """The paper's loss of a batch; projected (B, D), rows (B,) into samples."""
        return adip_loss(projected, self.image_emb[rows], self.text_emb[self.labels[rows]], image_weight)


def align(
    student: Student, training_set: TrainingSet, features: Tensor, recipe: AlignRecipe, seed: int, log: Path
) -> None:
    """Train the projector in place, the backbone frozen: its features are given, computed once.

    features: (N, d_s) of the un-augmented training images, on the training device
    log:      metrics.jsonl, to which lines are added
    """
    rows_of = domain_rows(training_set.samples, training_set.domains)
    optimizer = torch.optim.Adam(student.projector.parameters(), lr=recipe.learning_rate)
    with StageProgress("align", recipe.steps, log) as progress:
        for step in range(recipe.steps):
            rows = torch.from_numpy(batch_indices(rows_of, recipe.batch_per_domain, seed, step))
            rows = rows.to(features.device)
            loss = training_set.loss(student.projector(features[rows]), rows, recipe.image_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.advance(step, loss, images=len(rows))


def distill(
    student: Student, training_set: TrainingSet, recipe: DistillRecipe, size_px: int, seed: int, log: Path
) -> None:
    """Train the backbone in place on augmented images, projector and BatchNorm statistics frozen.

    size_px: S, side of the student's square input
    log:     metrics.jsonl, to which lines are added
    """
    device = training_set.image_emb.device
    augment = Augment(recipe.augmentation, size_px)
    rows_of = domain_rows(training_set.samples, training_set.domains)
    batches = StepBatches(training_set.samples, rows_of, recipe.batch_per_domain, augment, seed)
    # Eval mode throughout: BatchNorm keeps its pretrained statistics, as in the authors' runs.
    student.eval()
    student.projector.requires_grad_(False)
    optimizer = torch.optim.Adam(student.backbone.parameters(), lr=recipe.learning_rate)
    with StageProgress("distill", recipe.steps, log) as progress:
        for step, (rows, images) in enumerate(batches.in_order(range(recipe.steps), recipe.workers)):
            rows, images = rows.to(device), images.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                projected = student(images)  # (B, D)
            loss = training_set.loss(projected.float(), rows, recipe.image_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.advance(step, loss, images=len(rows))
    student.projector.requires_grad_(True)
