"""Reference statistics of a bundle: what a Monitor in production compares the student's answers with.

The images compared are source validation's, on which nothing was trained; what they are measured against, the
principal directions of the embedding, comes from training images, so that validation images are placed as new
ones are. Each file has a reference of its own: rounding shifts confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vl2v_deploy.client.bundle import ONNX, Bundle
from vl2v_deploy.client.manifest import Confidence, ReferenceAnswers, ReferenceFacts
from vl2v_deploy.client.monitor.reference import (
    load_reference,
    reference_answers_of,
    reference_of,
    write_reference,
)
from vl2v_deploy.client.monitor.scores import basis_of
from vl2v_deploy.exporting.accuracy import Answers
from vl2v_deploy.exporting.images import ExportImages
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact


def add_reference(
    folder: Path, images: ExportImages, confidence: Confidence, validation: Mapping[str, Answers]
) -> ReferenceFacts:
    """Write reference.npz into a bundle that is being made; returns what the manifest says of it.

    validation: what each file answers to source validation, by precision
    """
    abstain_below = confidence.abstain_below or 0.0  # None: it never abstains
    basis = basis_of(answers_of_session(open_exact(folder / ONNX), images.calibration)[1])
    write_reference(
        folder,
        {
            precision: reference_of(
                logits, embedding, abstain_below, basis, images.validation_labels, images.validation_groups
            )
            for precision, (logits, embedding) in validation.items()
        },
    )
    return ReferenceFacts(
        images=len(images.validation),
        precisions={
            precision: reference_answers_of(logits, abstain_below)
            for precision, (logits, _) in validation.items()
        },
    )


def keep_embedding_reference(bundle: Bundle, out: Path) -> ReferenceFacts | None:
    """The reference of a bundle that gets other classes: of embeddings alone, which those do not move.

    Writes reference.npz to `out` and returns what the manifest says of it; None where the bundle has none.
    """
    if (facts := bundle.manifest.reference) is None:
        return None
    references = {name: load_reference(bundle, name) for name in facts.precisions}
    write_reference(
        out, {name: replace(one, confidence=None, events=None) for name, one in references.items()}
    )
    return ReferenceFacts(facts.images, dict.fromkeys(references, ReferenceAnswers()))
