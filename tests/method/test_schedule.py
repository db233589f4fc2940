"""The learning rate schedule against torch's own, at its ends, and in Adam."""

from __future__ import annotations

import pytest
import torch

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.method.schedule import learning_rate
from vl2v_deploy.recipe import StageRecipe, load_recipe


def schedule_of(**fields: object) -> list[float]:
    recipe = StageRecipe.model_validate({"steps": 20, "learning_rate": 0.1} | fields)
    return [learning_rate(recipe, step) for step in range(recipe.steps)]


def test_the_default_schedule_is_constant() -> None:
    assert schedule_of() == [0.1] * 20
    assert schedule_of(warmup=4)[4:] == [0.1] * 16


def test_cosine_schedule_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(20):
        expected += torchs.get_last_lr()
        optimizer.step()
        torchs.step()
    assert schedule_of(schedule="cosine") == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "steps"), [(4, 4), (0.2, 4), (0.49, 10), (1, 1), (0, 0)])
def test_warmup_of_a_schedule_in_steps_and_as_a_share(warmup: float, steps: int) -> None:
    rates = schedule_of(schedule="cosine", warmup=warmup)
    assert rates[:steps] == pytest.approx([0.1 * (n + 1) / (steps + 1) for n in range(steps)])
    assert rates[steps] == 0.1
    assert all(later < earlier for earlier, later in zip(rates[steps:], rates[steps + 1 :], strict=False))
    assert rates[steps:] == pytest.approx(schedule_of(steps=20 - steps, schedule="cosine"))
    assert rates[-1] > 0


@pytest.mark.parametrize(("warmup", "why"), [(20, "must end before"), (2.5, "whole steps"), (-1, "0")])
def test_a_schedule_whose_warmup_makes_no_sense_is_refused(warmup: float, why: str, tmp_path: object) -> None:
    with pytest.raises(ValueError, match=why):
        schedule_of(warmup=warmup)


def test_a_wrong_schedule_is_one_line_of_a_recipe(write_recipe: object) -> None:
    text = "data: {root: d, target: t}\nteacher: {model: m}\nstudent: {backbone: b}\n"
    with pytest.raises(RecipeError, match=r"distill\.schedule"):
        load_recipe(write_recipe(f"{text}distill: {{schedule: cosin}}\n"))  # type: ignore[operator]
