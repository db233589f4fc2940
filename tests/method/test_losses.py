"""The baselines' losses against float64 numpy written from their formulas, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vl2v_deploy.method.losses import erm_loss, kd_loss, kd_text_loss

LABELS = torch.tensor([0, 2, 1, 4, 4, 3, 0])


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=3, size=shape)).float()


STUDENT, TEACHER = random(7, 5, seed=0), random(7, 5, seed=1)


def softmax(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    exponentials = np.exp(logits.double().numpy() / temperature)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def cross_entropy(logits: torch.Tensor) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(LABELS)), LABELS.numpy()]).mean())


def kl(temperature: float) -> float:
    of_student, of_teacher = softmax(STUDENT, temperature), softmax(TEACHER, temperature)
    return float((of_teacher * np.log(of_teacher / of_student)).sum(axis=1).mean())


def test_erm_is_cross_entropy() -> None:
    assert erm_loss(STUDENT, LABELS).item() == pytest.approx(cross_entropy(STUDENT), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_kd_is_its_formula(temperature: float, weight: float) -> None:
    expected = (1 - weight) * cross_entropy(STUDENT) + weight * temperature**2 * kl(temperature)
    assert kd_loss(STUDENT, LABELS, TEACHER, temperature, weight).item() == pytest.approx(expected, rel=1e-5)


def test_kd_without_kl_is_erm() -> None:
    assert kd_loss(STUDENT, LABELS, TEACHER, 2.0, 0.0).item() == erm_loss(STUDENT, LABELS).item()


def test_kl_gradient_vanishes_where_the_student_is_the_teacher_up_to_a_constant() -> None:
    student = (TEACHER + random(7, 1, seed=2)).requires_grad_()
    kd_loss(student, LABELS, TEACHER, 2.0, 1.0).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_hot_kd_is_the_squared_distance_of_centred_logits() -> None:
    """T -> inf (Hinton et al. 2015, section 2.1): T^2 KL -> |z_s - z_t|^2 / (2 K), both of zero mean."""
    s, t = (x - x.mean(dim=1, keepdim=True) for x in (STUDENT.double(), TEACHER.double()))
    expected = ((s - t) ** 2).sum(dim=1).mean().item() / (2 * 5)
    assert kd_loss(s, LABELS, t, 1e4, 1.0).item() == pytest.approx(expected, rel=1e-3)


def test_kd_text_adds_the_distance_to_the_text_embedding() -> None:
    projected, text_emb = random(7, 6, seed=3), random(7, 6, seed=4)
    p, t = (x.double().numpy() for x in (projected, text_emb))
    cosine = (p * t).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1)
    expected = 0.6 * cross_entropy(STUDENT) + 0.4 * 9 * kl(3.0) + 0.7 * np.mean(1 - cosine)
    found = kd_text_loss(STUDENT, projected, LABELS, TEACHER, text_emb, 3.0, 0.4, 0.7)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_kd_text_without_text_is_kd_and_at_the_text_embedding_adds_nothing() -> None:
    projected, text_emb = random(7, 6, seed=3), random(7, 6, seed=4)
    kd = kd_loss(STUDENT, LABELS, TEACHER, 2.0, 0.5).item()
    assert kd_text_loss(STUDENT, projected, LABELS, TEACHER, text_emb, 2.0, 0.5, 0.0).item() == kd
    at_text = kd_text_loss(STUDENT, 5 * text_emb, LABELS, TEACHER, text_emb, 2.0, 0.5, 1.0)
    assert at_text.item() == pytest.approx(kd, rel=1e-6)
