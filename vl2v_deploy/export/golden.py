"""Golden samples: images with the answers that every machine must give."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vl2v_deploy.client.bundle import GOLDEN
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.export.parity import Floats

GOLDEN_SAMPLES = 8


def write_golden(
    bundle: Path, samples: Sequence[Sample], images: Pixels, logits: Floats, embedding: Floats
) -> None:
    """Copy the encoded images into the bundle, beside their pixels (N, S, S, 3), logits and embeddings.

    The encoded files are kept too, since decoders differ between machines as much as runtimes do.
    """
    folder = (bundle / GOLDEN).parent
    folder.mkdir()
    names = [f"{number:02d}{sample.path.suffix.lower()}" for number, sample in enumerate(samples)]
    for name, sample in zip(names, samples, strict=True):
        shutil.copyfile(sample.path, folder / name)
    np.savez(
        bundle / GOLDEN,
        names=np.array(names),
        labels=np.array([sample.label for sample in samples], dtype=np.int64),
        images=images,
        logits=logits,
        embedding=embedding,
    )
