"""Golden samples: images with the answers that every machine must give to them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.bundle import GOLDEN
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.files import IMAGE_SUFFIXES
from vl2v_deploy.exporting.precision.parity import Reference

GOLDEN_SAMPLES = 8


def write_golden(
    bundle: Path, samples: Sequence[Sample], reference: Reference, answers: Mapping[str, Floats]
) -> None:
    """Copy the encoded images into the bundle, beside their pixels and the expected answers.

    The encoded files are kept too, since decoders differ between machines as much as runtimes do.

    samples:   N of them
    reference: their pixels, and torch's logits and embeddings
    answers:   precision -> logits (N, K) of its file, here
    """
    folder = (bundle / GOLDEN).parent
    folder.mkdir()
    suffixes = [sample.path.suffix.lower() for sample in samples]
    names = [
        f"{number:02d}{suffix if suffix in IMAGE_SUFFIXES else ''}" for number, suffix in enumerate(suffixes)
    ]
    for name, sample in zip(names, samples, strict=True):
        shutil.copyfile(sample.path, folder / name)
    np.savez(
        bundle / GOLDEN,
        names=np.array(names),
        labels=np.array([sample.label for sample in samples], dtype=np.int64),
        images=reference.images,
        logits=reference.logits,
        embedding=reference.embedding,
        allow_pickle=False,
        **{f"logits_{precision}": logits for precision, logits in answers.items()},
    )


def one_of_each_class(samples: Sequence[Sample]) -> list[int]:
    """Rows of up to GOLDEN_SAMPLES samples, from as many classes as possible."""
    first = {sample.label: row for row, sample in reversed(list(enumerate(samples)))}
    rows = [*first.values(), *(row for row in range(len(samples)) if row not in first.values())]
    return rows[:GOLDEN_SAMPLES]
