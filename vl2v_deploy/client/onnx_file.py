"""What the manifest says of each ONNX file: how it was made, what it computes in, how right its answers are.

Accuracies, agreements and shares are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vl2v_deploy.client.typed_json import INLINED, LEFT_OUT


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from torch fp32.

    embedding:   largest absolute difference of an embedding's component; its norm is 1
    logit_share: largest difference of a logit, as a share of the reference's logit scale
    cosine:      least cosine between the two embeddings of an image
    agreement:   least share of images with the same label
    ties:        whether labels count as the same where torch's logits differ by less than two logit errors
    """

    embedding: float
    logit_share: float
    cosine: float
    agreement: float
    ties: bool


@dataclass(frozen=True)
class Parity:
    """How far an engine's answers are from torch's.

    agreement:   share of images with the same label as torch; with `tolerance.ties` near ties count
                 as the same
    logit_scale: how large torch's logits get
    tolerance:   from torch
    elsewhere:   from the same file on the machine of export; None = `tolerance`
    engine, on:  what ran, and on which images
    """

    images: int
    batch_sizes: tuple[int, ...]
    agreement: float
    max_embedding_error: float
    mean_embedding_error: float
    max_logit_error: float
    mean_logit_error: float
    min_cosine: float
    logit_scale: float
    tolerance: Tolerance
    elsewhere: Tolerance | None = field(default=None, metadata=LEFT_OUT)
    engine: str | None = field(default=None, metadata=LEFT_OUT)
    on: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class MacShares:
    """Multiply-accumulates for one image, and the share done in fp32, fp16 and int8.

    uncounted: operations whose number is not known and is not in `total`, by the reason; None = none
    """

    total: int
    share: Mapping[str, float]
    uncounted: Mapping[str, tuple[str, ...]] | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Measured:
    """Accuracy on some images."""

    images: int
    accuracy: float


@dataclass(frozen=True)
class DomainAccuracy:
    """What a file gets right in one domain.

    split:                which of the domain's images; `images` of `of` were measured
    chosen_on:            whether something was chosen on them
    ece:                  expected calibration error
    answered:             share of the images that the student does not abstain at
    accuracy_of_answered: None where it abstains at all
    """

    role: Literal["source", "target"]
    split: str
    chosen_on: bool
    images: int
    of: int
    accuracy: float
    ece: float
    same_label_as_fp32: float
    answered: float
    accuracy_of_answered: float | None


def without_ood(domains: int) -> str:
    """Why there is no OOD accuracy.

    domains: how many the data has

    >>> without_ood(1)
    'not measured: the data has one domain'
    """
    return f"not measured: {'the data has one domain' if domains == 1 else 'no domain was kept unseen'}"


@dataclass(frozen=True)
class FileAccuracy:
    """Accuracy measured through one ONNX file.

    id:  mean of the source domains
    ood: of the target; None where no domain was kept unseen
    """

    source_validation: Measured
    id: float
    ood: float | None
    domains: Mapping[str, DomainAccuracy]

    @property
    def ood_text(self) -> str:
        """OOD accuracy in percent, or why there is none."""
        return f"{100 * self.ood:.1f} %" if self.ood is not None else without_ood(len(self.domains))


@dataclass(frozen=True)
class MeasuredOn:
    """Images whose value ranges decided what stays in fp32."""

    images: int
    of: str
    headroom: float


@dataclass(frozen=True)
class Fp16Facts:
    """How an fp16 file was made.

    kept_in_fp32: nodes by reason (fixed, range, error)
    """

    kept_in_fp32: Mapping[str, tuple[str, ...]]
    measured_on: MeasuredOn
    emulated_parity: Parity


@dataclass(frozen=True)
class Trial:
    """An int8 graph tried on source validation. cosine: mean, of its embeddings to the fp32 graph's."""

    accuracy: float
    cosine: float


@dataclass(frozen=True)
class CalibrationFacts:
    """The method that int8 ranges were calibrated by, and what each method gave."""

    images: int
    of: str
    method: str
    tried: Mapping[str, Trial]


@dataclass(frozen=True)
class Budget:
    """What int8 may cost and does cost on source validation; `drop` and `max_accuracy_drop` in points."""

    max_accuracy_drop: float
    drop: float
    accuracy: float
    on: str
    images: int
    fp32_accuracy: float


@dataclass(frozen=True)
class Int8Facts:
    """How an int8 file was made.

    sensitivity: of each layer: 1 - mean cosine with that layer alone in int8
    """

    calibration: CalibrationFacts
    layers_in_fp32: tuple[str, ...]
    sensitivity: Mapping[str, float]
    budget: Budget


@dataclass(frozen=True)
class WeightFacts:
    """The rule that the weights of an int8 file keep, and what each rule gave.

    layers_that_may_saturate: whose sums of two products can leave 16 bits, where a processor without VNNI
                              saturates them; None = not known
    """

    rule: str
    layers_that_may_saturate: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    tried: Mapping[str, Trial] | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class OnnxFile:
    """One ONNX file of the bundle.

    accuracy: None where it is not known, as after a relabelling
    weights:  of an int8 file; None in bundles that were exported before they were checked
    """

    file: str
    bytes: int
    macs: MacShares
    parity: Parity
    accuracy: FileAccuracy | None
    fp16: Fp16Facts | None = field(default=None, metadata=INLINED)
    int8: Int8Facts | None = field(default=None, metadata=INLINED)
    weights: WeightFacts | None = field(default=None, metadata=LEFT_OUT)
