"""What run.json says of the student: how its training stages went, and what it gets right."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vl2v_deploy.method.reports import AveragingReport
from vl2v_deploy.models.record_parts.part import RecordPart

Shares = dict[str, float]  # accuracy in [0, 1] by domain


class HandedOver(RecordPart):
    """The evaluated weights that Align handed over in place of the averaged ones.

    step:     counted from 0
    accuracy: on the sources' val split
    """

    step: int
    accuracy: float


class StageReport(RecordPart):
    """How a training stage went.

    seconds:     of training, without evaluations
    steps_per_s: since the last resume; None when that trained no step
    averaging:   what the weights are that it ended with, but where some were handed over
    handed_over: None where the averaged weights were
    """

    later = frozenset({"handed_over", "averaging.variant", "averaging.joined"})

    steps: int
    seconds: float
    steps_per_s: float | None
    averaging: Annotated[AveragingReport, Field(discriminator="kind")]
    handed_over: HandedOver | None = None


class Accuracy(RecordPart):
    """Accuracy on the images that `DomainMetrics.split` names.

    student:            of what the method predicts with, also where that is the teacher
    teacher:            of the zero-shot teacher; None where its answers about the images were not all held,
                        and the recipe forbids to ask (missing_embeddings: text_term)
    linear_probe:       of a linear probe of the pretrained student
    student_source_val: on the sources' val split, its mean as the recipe's validation_mean says
    """

    target: str
    student: Shares
    teacher: dict[str, float | None]
    linear_probe: Shares
    student_source_val: float


class Agreement(RecordPart):
    """How far student and teacher agree on images without labels that were held out from training.

    images:     that were compared: those about which the teacher's answers were held or bought
    same_class: share of them on which both name the same class
    interval:   95 % interval of same_class (Wilson)
    cosine:     mean cosine of the student's embedding and the teacher's; None without a projector
    kl:         mean KL divergence of the student's class probabilities from the teacher's, nats
    """

    images: int
    same_class: float
    interval: tuple[float, float]
    cosine: float | None
    kl: float


class ClassMetrics(RecordPart):
    """accuracy: None where no image is of the class."""

    images: int
    accuracy: float | None


class DomainMetrics(RecordPart):
    """What the method's predictions in one domain are worth.

    split: which of the domain's images were measured
    ece:   expected calibration error in 15 bins
    """

    split: Literal["test", "out", "in", "all"]
    images: int
    accuracy: float
    macro_f1: float
    ece: float
    per_class: dict[str, ClassMetrics]
