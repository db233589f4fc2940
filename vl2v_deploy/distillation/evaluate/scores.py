"""How good a method's predictions are in every domain, on the same images for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from vl2v_deploy.data.domains import DomainSet, Measured, Sample, evaluated_split, evaluation_samples
from vl2v_deploy.method import metrics
from vl2v_deploy.models.record_parts.measured import ClassMetrics, DomainMetrics
from vl2v_deploy.recipe import Recipe


@dataclass(frozen=True)
class TestSet:
    """The images on which accuracy is measured, of all domains in a row.

    samples: M of them
    labels:  (M,) class indices
    rows_of: for each domain, its rows in samples
    split:   for each domain, which of its images they are: test, out, in or all
    classes: names, in the order of the logits
    """

    samples: tuple[Sample, ...]
    labels: Tensor
    rows_of: dict[str, Tensor]
    split: dict[str, Measured]
    classes: tuple[str, ...]

    def accuracy_by_domain(self, logits: Tensor) -> dict[str, float]:
        """Accuracy in [0, 1] of each domain; logits (M, K)."""
        predicted = logits.argmax(dim=1)
        return {
            domain: metrics.accuracy(self.labels[rows], predicted[rows])
            for domain, rows in self.rows_of.items()
        }

    def accuracy_where(self, logits: Tensor, answered: Tensor | None) -> dict[str, float | None]:
        """`accuracy_by_domain`, with None for a domain of which not every row is answered.

        answered: (M,) bool; None = all
        """
        shares = self.accuracy_by_domain(logits)
        if answered is None:
            return dict(shares)
        whole = {domain: bool(answered[rows].all()) for domain, rows in self.rows_of.items()}
        return {domain: share if whole[domain] else None for domain, share in shares.items()}

    def metrics_by_domain(self, logits: Tensor) -> dict[str, DomainMetrics]:
        """Accuracy, macro-F1, expected calibration error and accuracy per class of each domain."""
        return {
            domain: _metrics(self.split[domain], logits[rows], self.labels[rows], self.classes)
            for domain, rows in self.rows_of.items()
        }

    def images_by_domain(self) -> dict[str, int]:
        return {domain: len(rows) for domain, rows in self.rows_of.items()}


def test_set(domain_set: DomainSet, target: str) -> TestSet:
    """Every domain's evaluation images (see data.domains.evaluation_samples)."""
    samples = tuple(
        sample for domain in domain_set.domains for sample in evaluation_samples(domain_set, domain, target)
    )
    of_domain = [sample.domain for sample in samples]
    return TestSet(
        samples=samples,
        labels=labels_of(samples),
        rows_of={
            domain: torch.tensor([row for row, name in enumerate(of_domain) if name == domain])
            for domain in domain_set.domains
        },
        split={domain: evaluated_split(domain_set, domain, target) for domain in domain_set.domains},
        classes=domain_set.classes,
    )


def _metrics(split: Measured, logits: Tensor, labels: Tensor, classes: Sequence[str]) -> DomainMetrics:
    predicted = logits.argmax(dim=1)
    per_class = metrics.per_class_accuracy(labels, predicted, len(classes))
    return DomainMetrics(
        split=split,
        images=len(labels),
        accuracy=metrics.accuracy(labels, predicted),
        macro_f1=metrics.macro_f1(labels, predicted, len(classes)),
        ece=metrics.expected_calibration_error(logits.softmax(dim=1), labels),
        per_class={
            name: ClassMetrics(images=images, accuracy=accuracy)
            for name, (images, accuracy) in zip(classes, per_class, strict=True)
        },
    )


def selection_scores(logits: Tensor, samples: Sequence[Sample], recipe: Recipe) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy in [0, 1]: what weights and settings are selected by.

    logits: (N, K) of the samples

    With validation_mean: domains each domain's own means are averaged, as DomainBed's evaluation does.
    """
    rows_of: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows_of.setdefault(sample.domain if recipe.validation_mean == "domains" else "", []).append(row)
    labels = labels_of(samples)
    scores = [_loss_and_accuracy(logits[rows], labels[rows]) for rows in rows_of.values()]
    losses, accuracies = zip(*scores, strict=True)
    return fmean(losses), fmean(accuracies)


def _loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    return F.cross_entropy(logits, labels).item(), metrics.accuracy(labels, logits.argmax(dim=1))


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """(N,) class indices."""
    return torch.tensor([sample.label for sample in samples])
