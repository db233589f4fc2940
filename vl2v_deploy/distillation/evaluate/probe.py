"""The linear probe: a baseline that shows how far the student's own features transfer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHT_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def fit_linear_probe(
    features: Tensor, labels: Tensor, classes: int, val_features: Tensor, accuracy: Callable[[Tensor], float]
) -> tuple[nn.Linear, float]:
    """Multinomial logistic regression on frozen features, and the weight decay chosen for it.

    The weight decay is the one with the best accuracy on the sources' val split, as DomainBed
    selects. Features are standardised by the training mean and deviation, folded into the layer.

    features: (N, d) training features; labels: (N,); val_features: (M, d)
    accuracy: of logits (M, K) of the val images
    """
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    best, best_accuracy, best_decay = None, -1.0, 0.0
    for weight_decay in WEIGHT_DECAYS:
        layer = _fit((features - mean) / std, labels, classes, weight_decay)
        with torch.no_grad():
            layer.bias.sub_(layer.weight @ (mean / std))
            layer.weight.div_(std)
            found = accuracy(layer(val_features))
        if found > best_accuracy:
            best, best_accuracy, best_decay = layer, found, weight_decay
    assert best is not None  # accuracy is never below 0
    return best.requires_grad_(False), best_decay


def _fit(features: Tensor, labels: Tensor, classes: int, weight_decay: float) -> nn.Linear:
    """Mean cross-entropy + weight_decay / 2 * |W|^2, to its minimum by L-BFGS from zero."""
    layer = nn.Linear(features.shape[1], classes, device=features.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(features), labels) + weight_decay / 2 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer
