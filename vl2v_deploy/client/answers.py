"""The student's answers: to one image, and to its own golden samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.golden import Golden
from vl2v_deploy.client.images import Pixels
from vl2v_deploy.client.onnx_file import Parity
from vl2v_deploy.client.session import Runtime

Floats: TypeAlias = npt.NDArray[np.float32]
# What decoders of other Pillow and libjpeg versions may differ by, of 255.
PIXEL_TOLERANCE = 2
SATURATION = (
    "the likely cause: the file's weights may saturate sums of 8-bit products on a processor without VNNI, "
    "such as the one it was exported on; export the run again"
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The student's answer to one image.

    label:       the most probable class
    index:       its index in the bundle's classes
    probability: softmax of the logits at `index`, in [0, 1]
    top:         (label, probability) of the most probable classes, falling
    abstained:   the probability is under the bundle's threshold: better not to rely on the label
    runtime:     what answered: execution provider, precision, threads
    logits:      all K of them; None unless asked for
    embedding:   the image's, of D numbers, L2-normalised; None unless asked for
    """

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    abstained: bool
    runtime: Runtime
    logits: tuple[float, ...] | None = None
    embedding: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Verification:
    """How far this machine's answers are from those recorded at export, and from the torch student's.

    samples:          number of golden samples
    argmax_agreement: share with the recorded label, in [0, 1]
    max_logit_error:  largest absolute difference of a logit from the recorded one
    max_pixel_error:  largest absolute difference of a preprocessed pixel, in [0, 255]
    max_torch_error:  largest absolute difference of a logit from the torch student's
    runtime:          what answered
    problems:         what is beyond the bundle's tolerance, in words; empty = it answers right here
    """

    samples: int
    argmax_agreement: float
    max_logit_error: float
    max_pixel_error: int
    max_torch_error: float
    runtime: Runtime
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the student answers on this machine and provider as it did at export."""
        return not self.problems


def verification(
    runtime: Runtime,
    parity: Parity,
    golden: Golden,
    pixels: Pixels,
    logits: Floats,
    *,
    may_saturate: bool,
) -> Verification:
    """How far the answers to the golden samples are from those recorded, judged by the file's tolerance.

    parity: of the file, from the manifest; `elsewhere` is what the file may differ by between machines,
            `tolerance` what it may differ by from torch
    golden: what export recorded
    pixels: uint8 (N, S, S, 3), as this machine makes them
    logits: (N, K), as this machine makes them
    may_saturate: whether sums in the file may saturate where the processor has no VNNI
    """
    expected = golden.answers(f"logits_{runtime.precision}", logits.shape)
    pixel_error = int(np.abs(pixels.astype(np.int16) - golden.images.astype(np.int16)).max())
    logit_error = float(np.abs(logits - expected).max())
    torch_error = float(np.abs(logits - golden.answers("logits", logits.shape)).max())
    agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
    elsewhere = parity.elsewhere or parity.tolerance
    from_export = elsewhere.logit_share * parity.logit_scale
    from_torch = parity.tolerance.logit_share * parity.logit_scale + from_export
    found = []
    # each written so that a NaN is a problem
    if pixel_error > PIXEL_TOLERANCE:
        found.append(f"images decode to pixels {pixel_error} apart (allowed {PIXEL_TOLERANCE})")
    if not logit_error <= from_export:
        found.append(f"logits off by {logit_error:.2e} from export (allowed {from_export:.2e})")
    if not torch_error <= from_torch:
        found.append(f"logits off by {torch_error:.2e} from torch (allowed {from_torch:.2e})")
    # where ties are let pass, the bounds on logits are so tight that only a tie can change a label
    if not agreement >= elsewhere.agreement and not elsewhere.ties:
        found.append(f"same label as at export on {100 * agreement:.0f} %")
    if found and may_saturate:
        found.append(SATURATION)
    return Verification(
        samples=len(logits),
        argmax_agreement=agreement,
        max_logit_error=logit_error,
        max_pixel_error=pixel_error,
        max_torch_error=torch_error,
        runtime=runtime,
        problems=tuple(found),
    )


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities of logits along the last axis; same shape, sums to 1.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32)).tolist()
    [0.5, 0.5]
    """
    with np.errstate(invalid="ignore"):  # of infinite logits: NaN, on which a student abstains
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))
