"""The student's answers to many images, decoded in threads a batch ahead of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vl2v_deploy.bars import tracked
from vl2v_deploy.bulk.images import Image, source_of
from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.images import Limits, Pixels, source_name
from vl2v_deploy.client.preprocess import pixels_from_source
from vl2v_deploy.client.stream import chunks
from vl2v_deploy.errors import DataError, ImageError
from vl2v_deploy.looking.answers import Subject

BATCH = 32


@dataclass(frozen=True)
class Answered:
    """Logits (M, K) and embeddings (M, D) of the images that can be used, in order.

    rows:   (M,) their places among the images that were asked about
    failed: the others, each with the reason
    """

    rows: tuple[int, ...]
    logits: Floats
    embedding: Floats
    failed: tuple[tuple[str, str], ...]


def answered(subject: Subject, images: Sequence[Image], limits: Limits) -> Answered:
    """What the student answers to each image.

    Raises DataError where not one can be used.
    """
    rows: list[int] = []
    failed: list[tuple[str, str]] = []
    answers: list[tuple[Floats, Floats]] = []
    decoded = tracked(_decoded(subject, images, limits), "Student looks at the images", total=len(images))
    for batch in chunks(enumerate(decoded), BATCH):
        good = [(row, item) for row, item in batch if not isinstance(item, ImageError)]
        failed += [(images[row].name, str(item)) for row, item in batch if isinstance(item, ImageError)]
        if good:
            rows += [row for row, _ in good]
            answers.append(subject.answer(np.stack([pixels for _, pixels in good])))
    if not answers:
        raise DataError(f"none of {len(images)} images can be used; the first: {failed[0][1]}")
    logits, embedding = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return Answered(tuple(rows), logits, embedding, tuple(failed))


def _decoded(subject: Subject, images: Sequence[Image], limits: Limits) -> Iterator[Pixels | ImageError]:
    def decode(image: Image) -> Pixels | ImageError:
        source = None
        try:
            source = source_of(image, limits)
            return pixels_from_source(source, subject.size_px, limits, draft=subject.draft)
        except ImageError as error:  # a new one, without the traceback, whose frames hold the image
            said = str(error)
            if isinstance(source, bytes):
                said = f"{image.name}{said.removeprefix(source_name(source))}"
            return ImageError(said)

    with ThreadPoolExecutor() as pool:
        for chunk in chunks(images, BATCH):
            yield from pool.map(decode, chunk)
