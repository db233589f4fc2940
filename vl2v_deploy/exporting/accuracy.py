"""What each exported file gets right, measured through the file: on source validation and in every domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from vl2v_deploy.client.answers import Floats, softmax
from vl2v_deploy.client.manifest import Confidence
from vl2v_deploy.client.onnx_file import DomainAccuracy, FileAccuracy, Measured, OnnxFile
from vl2v_deploy.exporting.images import ExportImages, HeldOut, batches, labels_of
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact, run_session
from vl2v_deploy.method import metrics

Answers: TypeAlias = tuple[Floats, Floats]  # logits and embeddings


def with_accuracy(
    files: Mapping[str, OnnxFile],
    folder: Path,
    images: ExportImages,
    confidence: Confidence,
    validation: Mapping[str, Answers],
    advance: Callable[[int], None],
) -> dict[str, OnnxFile]:
    """The files with the accuracy that was measured through them.

    folder:     of the files
    validation: what each file answers to source validation
    advance:    called with how many held-out images more are done
    """
    abstain_below = confidence.abstain_below or 0.0  # None: it never abstains
    held_out = _answers({name: folder / made.file for name, made in files.items()}, images, advance)
    return {
        name: replace(
            made,
            accuracy=_accuracy(validation[name][0], held_out[name], held_out["fp32"], images, abstain_below),
        )
        for name, made in files.items()
    }


def validation_answers(
    files: Mapping[str, OnnxFile], folder: Path, images: ExportImages
) -> dict[str, Answers]:
    """Logits (V, K) and embeddings (V, D) of each file on source validation."""
    return {
        name: answers_of_session(open_exact(folder / made.file), images.validation)
        for name, made in files.items()
    }


def _answers(
    files: Mapping[str, Path], images: ExportImages, advance: Callable[[int], None]
) -> dict[str, Floats]:
    """Logits of each file on held-out images (M, K), decoded once for all."""
    sessions = {precision: open_exact(path) for precision, path in files.items()}
    parts: dict[str, list[Floats]] = {precision: [] for precision in files}
    for batch in batches(images.held_out_samples(), images.size_px):
        for precision, session in sessions.items():
            parts[precision].append(run_session(session, batch)[0])
        advance(len(batch))
    return {precision: np.concatenate(chunks) for precision, chunks in parts.items()}


def _accuracy(
    validation: Floats, held_out: Floats, fp32: Floats, images: ExportImages, abstain_below: float
) -> FileAccuracy:
    """Of one file.

    validation: (V, K) logits on source validation
    held_out:   (M, K) logits on the held-out images
    fp32:       (M, K) those of the fp32 file, for the share of labels that are the same
    """
    domains: dict[str, DomainAccuracy] = {}
    start = 0
    for domain in images.held_out:
        rows = slice(start, start + len(domain.samples))
        start = rows.stop
        domains[domain.domain] = _of_domain(domain, held_out[rows], fp32[rows], abstain_below)
    sources = [domain.accuracy for domain in domains.values() if domain.role == "source"]
    target = [domain.accuracy for domain in domains.values() if domain.role == "target"]
    return FileAccuracy(
        source_validation=Measured(len(validation), images.validation_accuracy(validation)),
        id=float(np.mean(sources)),
        ood=target[0] if target else None,
        domains=domains,
    )


def _of_domain(domain: HeldOut, logits: Floats, fp32: Floats, abstain_below: float) -> DomainAccuracy:
    labels, probabilities = labels_of(domain.samples), softmax(logits)
    answered = probabilities.max(1) >= abstain_below  # (n,)
    right = logits.argmax(1) == labels
    return DomainAccuracy(
        role="target" if domain.is_target else "source",
        split=domain.split,
        chosen_on=domain.chosen_on,
        images=len(labels),
        of=domain.of,
        accuracy=float(right.mean()),
        ece=metrics.expected_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels)),
        same_label_as_fp32=float((logits.argmax(1) == fp32.argmax(1)).mean()),
        answered=float(answered.mean()),
        accuracy_of_answered=float(right[answered].mean()) if answered.any() else None,
    )
