"""What each exported file gets right, measured through the file: on source validation and in every domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vl2v_deploy.exporting.confidence import confidence_of
from vl2v_deploy.exporting.images import ExportImages, HeldOut, batches, labels_of
from vl2v_deploy.exporting.precision.parity import Floats
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact, run_session
from vl2v_deploy.method import metrics


def evaluate_files(
    files: Mapping[str, Path], images: ExportImages, advance: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Logits of each file on source validation (V, K) and on held-out images (M, K), decoded once for all.

    files:   precision -> ONNX file
    advance: called with how many held-out images more are done
    """
    sessions = {precision: open_exact(path) for precision, path in files.items()}
    validation = {
        name: answers_of_session(session, images.validation)[0] for name, session in sessions.items()
    }
    parts: dict[str, list[Floats]] = {precision: [] for precision in files}
    for batch in batches(images.held_out_samples(), images.size_px):
        for precision, session in sessions.items():
            parts[precision].append(run_session(session, batch)[0])
        advance(len(batch))
    return validation, {precision: np.concatenate(chunks) for precision, chunks in parts.items()}


def accuracy_record(
    validation: Floats, held_out: Floats, fp32: Floats, images: ExportImages, abstain_below: float
) -> dict[str, Any]:
    """What the manifest says of one file's accuracy; accuracies and shares in [0, 1].

    validation:    (V, K) logits on source validation
    held_out:      (M, K) logits on the held-out images
    fp32:          (M, K) those of the fp32 file, for the share of labels that are the same
    abstain_below: confidence under which the student abstains
    """
    right = validation.argmax(1) == images.validation_labels
    domains: dict[str, Any] = {}
    start = 0
    for domain in images.held_out:
        rows = slice(start, start + len(domain.samples))
        start = rows.stop
        domains[domain.domain] = _of_domain(domain, held_out[rows], fp32[rows], abstain_below)
    sources = [domains[domain.domain] for domain in images.held_out if not domain.is_target]
    [target] = [domains[domain.domain] for domain in images.held_out if domain.is_target]
    return {
        "source_validation": {"images": len(right), "accuracy": float(right.mean())},
        "id": float(np.mean([domain["accuracy"] for domain in sources])),
        "ood": target["accuracy"],
        "domains": domains,
    }


def _of_domain(domain: HeldOut, logits: Floats, fp32: Floats, abstain_below: float) -> dict[str, Any]:
    labels = labels_of(domain.samples)
    probabilities = torch.from_numpy(logits).softmax(dim=1)
    answered = confidence_of(logits) >= abstain_below  # (n,)
    right = logits.argmax(1) == labels
    return {
        "role": "target" if domain.is_target else "source",
        "split": domain.split,
        "chosen_on": domain.chosen_on,
        "images": len(labels),
        "of": domain.of,
        "accuracy": float(right.mean()),
        "ece": metrics.expected_calibration_error(probabilities, torch.from_numpy(labels)),
        "same_label_as_fp32": float((logits.argmax(1) == fp32.argmax(1)).mean()),
        "answered": float(answered.mean()),
        "accuracy_of_answered": float(right[answered].mean()) if answered.any() else None,
    }
