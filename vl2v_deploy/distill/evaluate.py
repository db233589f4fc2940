"""Accuracy of student, zero-shot teacher and linear probe in every domain, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vl2v_deploy.data.domains import DomainSet, Sample, evaluation_samples


@dataclass(frozen=True)
class TestSet:
    """The images on which accuracy is measured, of all domains in a row.

    samples: M of them
    labels:  (M,) class indices
    """

    samples: tuple[Sample, ...]
    labels: Tensor

    def accuracy_by_domain(self, logits: Tensor) -> dict[str, float]:
        """Accuracy in [0, 1] of each domain; logits (M, K)."""
        correct = (logits.argmax(dim=1) == self.labels).tolist()
        by_domain: dict[str, list[bool]] = {}
        for sample, hit in zip(self.samples, correct, strict=True):
            by_domain.setdefault(sample.domain, []).append(hit)
        return {domain: sum(hits) / len(hits) for domain, hits in by_domain.items()}

    def accuracy(self, logits: Tensor) -> float:
        """Accuracy in [0, 1] over all images; logits (M, K)."""
        return float((logits.argmax(dim=1) == self.labels).float().mean())

    def images_by_domain(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for sample in self.samples:
            counts[sample.domain] = counts.get(sample.domain, 0) + 1
        return counts


def test_set(domain_set: DomainSet, target: str) -> TestSet:
    """Every domain's evaluation images (see data.domains.evaluation_samples)."""
    samples = tuple(
        sample for domain in domain_set.domains for sample in evaluation_samples(domain_set, domain, target)
    )
    return TestSet(samples, labels_of(samples))


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """(N,) class indices."""
    return torch.tensor([sample.label for sample in samples])
