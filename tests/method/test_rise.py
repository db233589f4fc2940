"""RISE's loss against float64 numpy written from its published code's description."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vl2v_deploy.method.losses import StudentOutput, kd_loss, rise_loss
from vl2v_deploy.method.rise import LanguageGuidance, absolute_distance, relative_distance
from vl2v_deploy.recipe import RiseRecipe

B, K, A, D = 7, 5, 3, 6
RNG = np.random.default_rng(0)
LABELS = torch.tensor([0, 2, 1, 4, 4, 3, 0])


def random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape))


def unit(tensor: torch.Tensor) -> torch.Tensor:
    return tensor / tensor.norm(dim=-1, keepdim=True)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values)
    return exponentials / exponentials.sum()


def test_rise_is_its_formula() -> None:
    projected, logits, teacher = random(B, D), 3 * random(B, K), 3 * random(B, K)
    guidance = LanguageGuidance(unit(random(K, D)), unit(random(K, A, D)))
    recipe = RiseRecipe(temperature=3.0, kl_weight=0.8, text_weight=2.0)
    expected = 0.0
    for b, label in enumerate(LABELS.tolist()):
        x, s, t = projected[b].numpy(), logits[b].numpy(), teacher[b].numpy()
        text, anchors = guidance.text_emb[label].numpy(), guidance.anchors[label].numpy()
        of_student, of_teacher = softmax(s / 3), softmax(t / 3)
        kl = 9 * float((of_teacher * np.log(of_teacher / of_student)).sum())
        cross_entropy = -float(np.log(softmax(s)[label]))
        absolute = 1 - cosine(x, text)
        relative = np.mean(
            (
                softmax(np.array([cosine(x, a) for a in anchors]))
                - softmax(np.array([cosine(text, a) for a in anchors]))
            )
            ** 2
        )
        expected += 0.8 * kl + 0.2 * cross_entropy + 2.0 * (absolute + 10 * relative)
    found = rise_loss(StudentOutput(projected, logits), LABELS, teacher, guidance, recipe)
    assert found.item() == pytest.approx(expected / B, rel=1e-9)


def test_rise_at_its_texts_is_kd() -> None:
    logits, teacher = random(B, K), random(B, K)
    guidance = LanguageGuidance(unit(random(K, D)), unit(random(K, A, D)))
    output = StudentOutput(4 * guidance.text_emb[LABELS], logits)
    found = rise_loss(output, LABELS, teacher, guidance, RiseRecipe())
    assert found.item() == pytest.approx(kd_loss(logits, LABELS, teacher, 3.0, 0.9).item(), rel=1e-9)


def test_the_relative_distance_sees_what_the_absolute_one_does_not() -> None:
    text = torch.tensor([[0.0, 0.0, 1.0]])
    anchors = unit(torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]]))
    towards_one, between = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.5**0.5, 0.5**0.5, 1.0]])
    assert absolute_distance(towards_one, text).item() == pytest.approx(
        absolute_distance(between, text).item()
    )
    assert relative_distance(between, text, anchors).item() == pytest.approx(0, abs=1e-12)
    assert relative_distance(towards_one, text, anchors) > 1e-4
