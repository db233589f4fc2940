"""Early stopping on the accuracy by which weights are selected."""

from __future__ import annotations

from collections.abc import Sequence


def is_exhausted(accuracies: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them.

    accuracies: of every evaluation so far, in [0, 1]; as good is not better
    patience:   None = never

    >>> is_exhausted([0.5, 0.7, 0.7, 0.6], patience=2), is_exhausted([0.5, 0.7, 0.7, 0.6], patience=3)
    (True, False)
    """
    if patience is None or len(accuracies) <= patience:
        return False
    return max(accuracies[-patience:]) <= max(accuracies[:-patience])
