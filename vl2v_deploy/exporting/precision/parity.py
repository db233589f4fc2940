"""Whether an exported file gives the torch student's answers, on real images; else there is no bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.bundle import numeric
from vl2v_deploy.client.onnx_file import Parity, Tolerance
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.errors import ParityError
from vl2v_deploy.exporting.graph.student_graph import DeployedStudent

RunEngine = Callable[[Pixels], tuple[Floats, Floats]]
BATCH_SIZES = (1, 3, 16)


# The one table of tolerances, keyed by engine and precision.
TOLERANCES = {
    # Both compute in fp32 and differ in the order of sums and in fused BatchNorm: some 1e-6 a component.
    # Fifty times that is still far below what moves a label that is not a tie.
    ("onnxruntime", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    # One rounding to fp16 is 5e-4 of a value, and a hundred layers round one after the other: 1e-3 of an
    # embedding whose components are some 0.1. onnxruntime's CPU kernels round less than a GPU does, so the
    # same bounds hold for the file there and for the emulation that rounds after every operation.
    ("onnxruntime", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    # Eight bits per tensor: the embedding turns by ten to twenty degrees, and labels near a boundary move.
    # What that costs is measured (accuracy by domain); here only a broken file must be caught.
    ("onnxruntime", "int8"): Tolerance(0.5, 0.5, cosine=0.7, agreement=0.85, ties=False),
    # One file, one runtime, another machine: what is fp32 sums in another order. int8 kernels are exact and
    # no weights saturate them: a CNN and a ViT answer the same, bit for bit, by the kernels for VNNI, AVX-512
    # without it, and for AVX2. Where fp32 has no fused multiply-add (SSE4), a value that falls on the other
    # side of a rounding moves all after it: the embedding by 0.07, logits by 0.07, a cosine of 0.987.
    ("elsewhere", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    ("elsewhere", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    ("elsewhere", "int8"): Tolerance(0.1, 0.1, cosine=0.97, agreement=0.9, ties=False),
    # Not measured yet: we had no GPU. fp32 without TF32 differs by the order of sums, in longer chains
    # than on a CPU; the others are the bounds of onnxruntime, whose fp16 emulation rounds as a GPU does.
    ("tensorrt", "fp32"): Tolerance(1e-3, 1e-3, cosine=0.9999, agreement=1.0, ties=True),
    ("tensorrt", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    ("tensorrt", "int8"): Tolerance(0.5, 0.5, cosine=0.7, agreement=0.85, ties=False),
    # Other runtimes with the same files, measured on a CNN and a ViT. fp32 and fp16 against torch: off
    # by 2e-6 and 4e-3 in both, as onnxruntime is. For OpenVINO that holds only where it is set to compute in
    # float32 (INFERENCE_PRECISION_HINT): left alone it takes bfloat16 where the CPU has it, off by 4e-2.
    ("openvino", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    ("openvino", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    ("onnxruntime-web", "fp32"): Tolerance(1e-4, 1e-4, cosine=0.99999, agreement=1.0, ties=True),
    ("onnxruntime-web", "fp16"): Tolerance(2e-2, 2e-2, cosine=0.999, agreement=1.0, ties=True),
    # int8 against onnxruntime's answers to the same file, as against torch the file's own error would hide
    # the runtime's. onnxruntime-web has the same integer kernels, but no fused multiply-add: off by 0.08 at
    # most, a cosine of 0.965 at least. OpenVINO fuses otherwise: 0.17 and 0.913, with VNNI and, held to its
    # kernels for AVX2, without.
    ("openvino", "int8"): Tolerance(0.2, 0.3, cosine=0.9, agreement=0.95, ties=False),
    ("onnxruntime-web", "int8"): Tolerance(0.15, 0.3, cosine=0.95, agreement=0.95, ties=False),
}

# Where logits are not at hand, ties and errors look the same: this share of images may differ.
SHARE_OF_TIES = {"fp32": 0.005, "fp16": 0.02}


def least_agreement(precision: str) -> float:
    """Least share of images on which two runtimes give the same label, where only labels are known.

    >>> least_agreement("int8-symmetric"), least_agreement("fp32")
    (0.85, 0.995)
    """
    arithmetic = numeric(precision)
    return TOLERANCES["onnxruntime", arithmetic].agreement - SHARE_OF_TIES.get(arithmetic, 0.0)


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
