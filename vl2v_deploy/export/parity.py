"""Does the exported file give the torch student's answers? On real held-out images, or no bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import ParityError
from vl2v_deploy.export.graph import DeployedStudent

Floats = npt.NDArray[np.float32]
BATCH_SIZES = (1, 3, 16)


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from torch fp32.

    embedding:       largest absolute difference of an embedding's component; its norm is 1
    logit_share:     largest difference of a logit, as a share of the logit scale (logits are s * cosine)
    """

    embedding: float
    logit_share: float


# The one table of tolerances, keyed by engine and precision.
TOLERANCES = {
    # Both compute in fp32 and differ in the order of sums and in fused BatchNorm: some 1e-6 a component.
    # Fifty times that is still far below what moves a label that is not a tie.
    ("onnxruntime", "fp32"): Tolerance(embedding=1e-4, logit_share=1e-4),
}


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart the answers were.

    argmax_agreement: share of images with the same label; ties within the tolerance count as the same
    """

    images: int
    batch_sizes: tuple[int, ...]
    argmax_agreement: float
    max_embedding_error: float
    max_logit_error: float
    min_cosine: float


def check_parity(
    reference: DeployedStudent,
    run_engine: Callable[[Pixels], tuple[Floats, Floats]],
    images: Pixels,
    tolerance: Tolerance,
    name: str,
) -> Parity:
    """The engine's answers against torch's, at batch 1, 3 and 16.

    run_engine: uint8 (B, S, S, 3) -> logits (B, K), embedding (B, D)
    images:     uint8 (N, S, S, 3), real ones
    name:       what the error calls the engine, usually its file

    Raises ParityError when any answer is outside the tolerance, or not finite.
    """
    with torch.inference_mode():
        outputs = [
            reference(torch.from_numpy(chunk)) for chunk in np.array_split(images, -(-len(images) // 32))
        ]
    logits = np.concatenate([chunk[0].numpy() for chunk in outputs])  # (N, K)
    embedding = np.concatenate([chunk[1].numpy() for chunk in outputs])  # (N, D)
    # Few images are gone through again, so that the largest batch is really run.
    rows = np.arange(max(len(images), *BATCH_SIZES)) % len(images)
    distinct, images, logits, embedding = len(images), images[rows], logits[rows], embedding[rows]
    results = []
    for batch_size in BATCH_SIZES:
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        answers = [run_engine(batch) for batch in batches]
        engine_logits = np.concatenate([answer[0] for answer in answers])
        engine_embedding = np.concatenate([answer[1] for answer in answers])
        _require_shape(name, batch_size, engine_logits, logits)
        _require_shape(name, batch_size, engine_embedding, embedding)
        logit_limit = tolerance.logit_share * reference.logit_scale
        results.append(_compare(logits, embedding, engine_logits, engine_embedding, logit_limit))
        worst = results[-1]
        # written so that a NaN fails
        fine = worst.max_embedding_error <= tolerance.embedding and worst.max_logit_error <= logit_limit
        if not (fine and worst.argmax_agreement == 1.0):
            raise ParityError(
                f"{name}: disagrees with the torch student at batch {batch_size}: embedding off by "
                f"{worst.max_embedding_error:.2e} (allowed {tolerance.embedding:.0e}), logits by "
                f"{worst.max_logit_error:.2e} (allowed {logit_limit:.2e}), "
                f"same label on {100 * worst.argmax_agreement:.1f} %"
            )
    return Parity(
        images=distinct,
        batch_sizes=BATCH_SIZES,
        argmax_agreement=min(result.argmax_agreement for result in results),
        max_embedding_error=max(result.max_embedding_error for result in results),
        max_logit_error=max(result.max_logit_error for result in results),
        min_cosine=min(result.min_cosine for result in results),
    )


def _compare(
    logits: Floats, embedding: Floats, engine_logits: Floats, engine_embedding: Floats, logit_limit: float
) -> Parity:
    rows = np.arange(len(logits))
    # torch's own logit of the engine's label: within two errors of the best one it is a tie
    behind = logits.max(1) - logits[rows, engine_logits.argmax(1)]
    return Parity(
        images=len(logits),
        batch_sizes=(),
        argmax_agreement=float((behind <= 2 * logit_limit).mean()),
        max_embedding_error=float(np.abs(embedding - engine_embedding).max()),
        max_logit_error=float(np.abs(logits - engine_logits).max()),
        min_cosine=float((embedding * engine_embedding).sum(1).min()),
    )


def _require_shape(name: str, batch_size: int, got: Floats, expected: Floats) -> None:
    if got.shape != expected.shape:
        raise ParityError(f"{name}: batch {batch_size}: expected shape {expected.shape}, got {got.shape}")
