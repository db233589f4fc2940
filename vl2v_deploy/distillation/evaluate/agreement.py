"""How far student and teacher agree on images without labels that no stage trained on.

It needs no label, so it can be measured where settings are chosen; source validation cannot see what images
of other domains have taught.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vl2v_deploy.client.intervals import wilson_interval
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.distillation.evaluate.predictions import RunData
from vl2v_deploy.distillation.evaluate.zero_shot import ZeroShotClassifier
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.record_parts.measured import Agreement
from vl2v_deploy.models.student import Student, predict_logits
from vl2v_deploy.recipe import Recipe


def agreement_with_teacher(
    student: Student, recipe: Recipe, sources: Sources, data: RunData, classifier: ZeroShotClassifier
) -> Agreement | None:
    """Student and zero-shot teacher on the held-out images without labels; None where there are none.

    With missing_embeddings: text_term, on those about which the teacher's answers are held.

    student: as training left it
    """
    samples: Sequence[Sample] = data.held_out.samples
    if recipe.missing_embeddings == "text_term" and samples:
        held = sources.held(samples, recipe, views=0)
        samples = [sample for sample, is_held in zip(samples, held.tolist(), strict=True) if is_held]
    if not samples:
        return None
    image_emb = sources.image_emb(samples, "Teacher sees the held-out images without labels")
    logits, projected = _outputs(student, recipe, sources, samples, classifier)
    return measured(logits, projected, image_emb, classifier)


def measured(
    logits: Tensor, projected: Tensor | None, image_emb: Tensor, classifier: ZeroShotClassifier
) -> Agreement:
    """Agreement of a student's outputs with the teacher's.

    logits:    (N, K) of the student
    projected: (N, D) in the teacher's space, any norm; None for a student without a projector
    image_emb: (N, D) of the teacher
    """
    of_teacher = zero_shot_logits(image_emb, *classifier.of_logits)  # (N, K)
    same = int((logits.argmax(dim=1) == of_teacher.argmax(dim=1)).sum())
    kl = F.kl_div(
        logits.log_softmax(dim=1), of_teacher.log_softmax(dim=1), log_target=True, reduction="batchmean"
    )
    return Agreement(
        images=len(logits),
        same_class=same / len(logits),
        interval=wilson_interval(same, len(logits)),
        cosine=None if projected is None else F.cosine_similarity(projected, image_emb).mean().item(),
        kl=kl.item(),
    )


def _outputs(
    student: Student,
    recipe: Recipe,
    sources: Sources,
    samples: Sequence[Sample],
    classifier: ZeroShotClassifier,
) -> tuple[Tensor, Tensor | None]:
    """The student's logits (N, K) and projected features (N, D); None without a projector."""
    text_emb, classes = classifier.text_emb.to(sources.device), len(classifier.text_emb)

    def compute(images: Tensor) -> Tensor:
        output = student(images)
        logits = predict_logits(output, text_emb, classifier.scale.value)
        return logits if output.projected is None else torch.cat([logits, output.projected], dim=1)

    rows = compute_batched(
        compute,
        [sample.path for sample in samples],
        recipe.student.image_size_px,
        sources.device,
        ImageCache(0),  # seen once
        sources.world,
        "Student on the held-out images without labels",
    )
    return rows[:, :classes], rows[:, classes:] if rows.shape[1] > classes else None
