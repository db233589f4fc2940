"""Whether an exported file gives the torch student's answers, on real images; else there is no bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.onnx_file import Parity, Tolerance
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import ParityError
from vl2v_deploy.exporting.graph.student_graph import DeployedStudent

RunEngine = Callable[[Pixels], tuple[Floats, Floats]]
BATCH_SIZES = (1, 3, 16)


@dataclass(frozen=True)
class Reference:
    """What the torch student answers; the yardstick of every exported file.

    images:      uint8 (N, S, S, 3), real ones that nothing was trained on
    logits:      (N, K)
    embedding:   (N, D), L2-normalised
    logit_scale: how large these logits get: s over the temperature, as logits are s * cosine / T; of a
                 trained head, which knows no bound, the largest distance of one from its image's mean logit
    """

    images: Pixels
    logits: Floats
    embedding: Floats
    logit_scale: float


@torch.inference_mode()
def reference_answers(student: DeployedStudent, images: Pixels) -> Reference:
    """The torch student's answers to `images`, uint8 (N, S, S, 3), in batches of 32."""
    outputs = [student(torch.from_numpy(chunk)) for chunk in np.array_split(images, -(-len(images) // 32))]
    logits, embedding = (
        np.concatenate([part.numpy() for part in parts]) for parts in zip(*outputs, strict=True)
    )
    if student.classifier is not None:
        return Reference(images, logits, embedding, student.logit_scale / student.temperature)
    spread = float(np.abs(logits - logits.mean(1, keepdims=True)).max())
    return Reference(images, logits, embedding, spread)


def check_parity(
    reference: Reference,
    run_engine: RunEngine,
    tolerance: Tolerance,
    name: str,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Parity:
    """The engine's answers against torch's, the images gone through once in batches of each size.

    run_engine: uint8 (B, S, S, 3) -> logits (B, K), embedding (B, D)
    name:       what the error calls the engine, usually its file

    Raises ParityError when any answer is outside the tolerance, or not finite.
    """
    # Few images are gone through again, so that the largest batch is really run.
    rows = np.arange(max(len(reference.images), *batch_sizes)) % len(reference.images)
    repeated = Reference(
        reference.images[rows], reference.logits[rows], reference.embedding[rows], reference.logit_scale
    )
    results = [_at_batch(repeated, run_engine, tolerance, name, size) for size in batch_sizes]
    return Parity(
        images=len(reference.images),
        batch_sizes=tuple(batch_sizes),
        agreement=min(result.agreement for result in results),
        max_embedding_error=max(result.max_embedding_error for result in results),
        mean_embedding_error=max(result.mean_embedding_error for result in results),
        max_logit_error=max(result.max_logit_error for result in results),
        mean_logit_error=max(result.mean_logit_error for result in results),
        min_cosine=min(result.min_cosine for result in results),
        logit_scale=reference.logit_scale,
        tolerance=tolerance,
    )


def _at_batch(
    reference: Reference, run_engine: RunEngine, tolerance: Tolerance, name: str, batch_size: int
) -> Parity:
    images = reference.images
    answers = [run_engine(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    logits = np.concatenate([answer[0] for answer in answers])
    embedding = np.concatenate([answer[1] for answer in answers])
    for got, expected in ((logits, reference.logits), (embedding, reference.embedding)):
        if got.shape != expected.shape:
            raise ParityError(f"{name}: batch {batch_size}: expected shape {expected.shape}, got {got.shape}")
    result = compare(reference, logits, embedding, tolerance)
    if problems := outside(result):
        raise ParityError(
            f"{name}: disagrees with the torch student at batch {batch_size}: {'; '.join(problems)}"
        )
    return result


def compare(reference: Reference, logits: Floats, embedding: Floats, tolerance: Tolerance) -> Parity:
    """How far answers to the reference's images, in its order, are from torch's; judges nothing."""
    rows = np.arange(len(logits))
    # torch's own logit of the engine's label: within two errors of the best one it is a tie
    behind = reference.logits.max(1) - reference.logits[rows, logits.argmax(1)]
    tie = 2 * tolerance.logit_share * reference.logit_scale if tolerance.ties else 0.0
    embedding_error = np.abs(embedding - reference.embedding)
    logit_error = np.abs(logits - reference.logits)
    return Parity(
        images=len(logits),
        batch_sizes=(),
        agreement=float((behind <= tie).mean()),
        max_embedding_error=float(embedding_error.max()),
        mean_embedding_error=float(embedding_error.mean()),
        max_logit_error=float(logit_error.max()),
        mean_logit_error=float(logit_error.mean()),
        min_cosine=float((embedding * reference.embedding).sum(1).min()),
        logit_scale=reference.logit_scale,
        tolerance=tolerance,
    )


def outside(parity: Parity) -> list[str]:
    """What is outside the tolerance, in words; empty when nothing is."""
    tolerance = parity.tolerance
    logit_limit = tolerance.logit_share * parity.logit_scale
    problems = []
    # each written so that a NaN is outside
    if not parity.max_embedding_error <= tolerance.embedding:
        problems.append(
            f"embedding off by {parity.max_embedding_error:.2e} (allowed {tolerance.embedding:.0e})"
        )
    if not parity.max_logit_error <= logit_limit:
        problems.append(f"logits off by {parity.max_logit_error:.2e} (allowed {logit_limit:.2e})")
    if not parity.min_cosine >= tolerance.cosine:
        problems.append(f"cosine of the embeddings {parity.min_cosine:.4f} (at least {tolerance.cosine})")
    if not parity.agreement >= tolerance.agreement:
        problems.append(
            f"same label on {100 * parity.agreement:.1f} % (at least {100 * tolerance.agreement:.0f} %)"
        )
    return problems
