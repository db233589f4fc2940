"""The golden samples run again on this machine, and how far the answers are from those recorded at export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.golden import Golden, golden_of
from vl2v_deploy.client.images import TRUSTED, Pixels
from vl2v_deploy.client.onnx_file import Parity
from vl2v_deploy.client.preprocess import pixels_from_source
from vl2v_deploy.client.session import Runtime
from vl2v_deploy.errors import BundleError, ImageError

# What decoders of other Pillow and libjpeg versions may differ by, of 255.
PIXEL_TOLERANCE = 2
SATURATION = (
    "the likely cause: the file's weights may saturate sums of 8-bit products on a processor without VNNI, "
    "such as the one it was exported on; export the run again"
)


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


def verify_golden(
    bundle: Bundle, runtime: Runtime, run: Callable[[Pixels], tuple[Floats, Floats]]
) -> Verification:
    """The golden samples run again here, encoded bytes to logits, against what export recorded.

    run: preprocessed images, uint8 (N, S, S, 3) -> logits (N, K) and embeddings (N, D)

    Raises BundleError when the golden samples are not of this bundle, and what `run` raises.
    """
    golden = golden_of(bundle)
    size_px, draft = bundle.image_size_px, bundle.draft
    try:
        pixels = np.stack([pixels_from_source(path, size_px, TRUSTED, draft=draft) for path in golden.paths])
    except ImageError as error:
        raise BundleError(f"{error}: a golden sample that cannot be used; export the run again") from error
    parity = bundle.file(runtime.precision).parity
    logits, _ = run(pixels)
    may_saturate = bundle.may_saturate(runtime.precision)
    return _verification(runtime, parity, golden, pixels, logits, may_saturate=may_saturate)


def _verification(
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
