"""The paper's maths against float64 numpy written from its formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vl2v_deploy.method.losses import adip_loss
from vl2v_deploy.method.zero_shot import mean_prompt_embedding, zero_shot_logits


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("image_weight", [0.0, 0.3, 0.5, 1.0])
def test_loss_is_the_papers_formula(image_weight: float) -> None:
    projected, image_emb, text_emb = (random(7, 5, seed=seed) for seed in range(3))
    p, i, t = (unit(x.double().numpy()) for x in (projected, image_emb, text_emb))
    expected = -np.mean(image_weight * (p * i).sum(1) + (1 - image_weight) * (p * t).sum(1))
    assert adip_loss(projected, image_emb, text_emb, image_weight).item() == pytest.approx(expected, abs=1e-6)


def test_loss_ignores_every_norm_and_its_gradient_is_tangential() -> None:
    projected = random(4, 6, seed=0).requires_grad_()
    image_emb, text_emb = random(4, 6, seed=1), random(4, 6, seed=2)
    loss = adip_loss(projected, image_emb, text_emb, 0.5)
    assert adip_loss(7 * projected, 3 * image_emb, text_emb / 9, 0.5).item() == pytest.approx(loss.item())
    loss.backward()
    assert projected.grad is not None
    assert (projected.grad * projected.detach()).sum(1).abs().max() < 1e-6


def test_loss_at_its_bounds() -> None:
    x = random(3, 4, seed=0)
    assert adip_loss(x, x, x, 0.5).item() == pytest.approx(-1)
    assert adip_loss(x, -x, -x, 0.5).item() == pytest.approx(1)


def test_templates_are_normalised_before_and_after_the_mean() -> None:
    embeddings = random(3, 4, 8, seed=0)
    expected = unit(unit(embeddings.double().numpy()).mean(axis=0))
    assert np.allclose(mean_prompt_embedding(embeddings).numpy(), expected, atol=1e-6)
    louder = embeddings * torch.tensor([1.0, 100.0, 0.01]).view(3, 1, 1)
    assert torch.allclose(mean_prompt_embedding(louder), mean_prompt_embedding(embeddings), atol=1e-6)


def test_logits_are_scaled_cosines() -> None:
    embeddings, text_emb = random(5, 8, seed=0), torch.from_numpy(unit(random(3, 8, seed=1).numpy()))
    expected = 50 * unit(embeddings.double().numpy()) @ text_emb.double().numpy().T
    assert np.allclose(zero_shot_logits(embeddings, text_emb, 50.0).numpy(), expected, atol=1e-4)
