"""Accuracy of the exported file per domain, encoded image to label, and of the teacher on the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmark.statistics import group_bootstrap_interval, wilson_interval
from vl2v_deploy.client import Student
from vl2v_deploy.data.domains import Sample

if TYPE_CHECKING:  # the student is measured without torch
    from torch import Tensor

    from vl2v_deploy.models.embedding_store import EmbeddingStore

Labels: TypeAlias = npt.NDArray[np.int64]
Role: TypeAlias = Literal["source", "target"]
BATCH = 32


@dataclass(frozen=True)
class DomainAccuracy:
    """Accuracy in one domain.

    role:      source = ID, target = OOD
    n:         images measured; `of` is how many the protocol has, more where it was subsampled
    low, high: 95 % interval of `accuracy`
    interval:  how that was found
    agreement: share of the images to which the teacher gives the same label; None without teacher
    """

    domain: str
    role: Role
    correct: int
    n: int
    of: int
    accuracy: float
    low: float
    high: float
    interval: str
    agreement: float | None = None


def student_labels(student: Student, samples: Sequence[Sample], advance: Callable[[int], None]) -> Labels:
    """The exported file's label of each sample, from the encoded file on; (n,).

    advance: called with how many more are done
    """
    labels: list[int] = []
    for start in range(0, len(samples), BATCH):
        chunk = samples[start : start + BATCH]
        labels += [p.index for p in student.predict_batch([s.path for s in chunk], batch_size=BATCH)]
        advance(len(chunk))
    return np.array(labels, dtype=np.int64)


def teacher_labels(
    store: EmbeddingStore, text_emb: Tensor, images: Mapping[str, Sequence[Sample]]
) -> dict[str, Labels]:
    """The teacher's zero-shot label of each sample, argmax_c cos(I(x), T(c)); (n,) by domain.

    store:    answers from the embeddings that distillation bought, and buys those it lacks
    text_emb: (K, D) L2-normalised, the zero-shot classifier
    """
    paths = [sample.path for samples in images.values() for sample in samples]
    image_emb = store.embed(paths, "Teacher accuracy")  # (N, D)
    labels = (image_emb @ text_emb.T).argmax(1).numpy()  # (N,)
    ends = np.cumsum([len(samples) for samples in images.values()])[:-1]
    return dict(zip(images, np.split(labels, ends), strict=True))


def measure_accuracy(
    student: Student,
    theirs: Mapping[str, Labels] | None,
    images: Mapping[str, Sequence[Sample]],
    totals: Mapping[str, int],
    target: str,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, dict[str, DomainAccuracy]]:
    """Accuracy by model ('student', and 'teacher' where given), then by domain, on the same images.

    theirs: the teacher's labels of `images`, by domain
    images: of each domain, those to measure on
    totals: of each domain, how many images the protocol has
    target: the unseen domain
    """
    result: dict[str, dict[str, DomainAccuracy]] = {"student": {}}
    for domain, samples in images.items():
        role: Role = "target" if domain == target else "source"
        agreement, mine = None, student_labels(student, samples, advance)
        if theirs is not None:
            agreement = float((mine == theirs[domain]).mean())
            scored = score_domain(samples, theirs[domain], role=role, of=totals[domain])
            result.setdefault("teacher", {})[domain] = scored
        result["student"][domain] = score_domain(
            samples, mine, role=role, of=totals[domain], agreement=agreement
        )
    return result


def score_domain(
    samples: Sequence[Sample], labels: Labels, *, role: Role, of: int, agreement: float | None = None
) -> DomainAccuracy:
    """Accuracy of `labels` on the samples of one domain, with its 95 % interval.

    labels: (n,) predicted class of each sample
    of:     how many images the protocol has in this domain
    """
    hits = labels == np.array([s.label for s in samples])  # (n,)
    groups = [s.group for s in samples]
    (low, high), interval = _interval(hits, groups)
    return DomainAccuracy(
        domain=samples[0].domain,
        role=role,
        correct=int(hits.sum()),
        n=len(samples),
        of=of,
        accuracy=float(hits.mean()),
        low=low,
        high=high,
        interval=interval,
        agreement=agreement,
    )


def in_domain(accuracies: Mapping[str, DomainAccuracy]) -> float:
    """ID accuracy: the mean over the source domains, each with the same weight."""
    return float(np.mean([a.accuracy for a in accuracies.values() if a.role == "source"]))


def out_of_domain(accuracies: Mapping[str, DomainAccuracy]) -> DomainAccuracy:
    """OOD accuracy: that of the target."""
    return next(a for a in accuracies.values() if a.role == "target")


def _interval(hits: npt.NDArray[np.bool_], groups: Sequence[str]) -> tuple[tuple[float, float], str]:
    distinct = len(set(groups))
    if distinct == len(groups):
        return wilson_interval(int(hits.sum()), len(groups)), "Wilson"
    if hits.all() or not hits.any():
        # Every resample is alike: the bootstrap would claim certainty. Count groups, not images.
        return wilson_interval(distinct * float(hits.mean()), distinct), "Wilson over groups"
    return group_bootstrap_interval(hits, groups), "bootstrap over groups"
