"""Averaging against a naive reading of SWAD's algorithm 1, closed forms, and itself interrupted anywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vl2v_deploy.errors import ModelError
from vl2v_deploy.method.averaging import Averager, start_averaging
from vl2v_deploy.method.reports import BestReport, EmaReport, Segment, SwadReport
from vl2v_deploy.recipe import StageRecipe, SwadRecipe

KINDS = ("swad", "ema", "best", "last", "oracle")
Trajectory = list[dict[str, Tensor]]


def trajectory(steps: int, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    return [
        {
            "projector.weight": torch.from_numpy(rng.normal(size=(3, 2))).float(),
            "projector.bias": torch.from_numpy(rng.normal(size=3)).float(),
        }
        for _ in range(steps)
    ]


def train(
    averager: Averager, weights: Trajectory, losses: dict[int, float], first: int = 0
) -> Iterator[tuple[int, bool]]:
    """What a trainer does: each step, and an evaluation after those that `losses` names."""
    # One tensor changed in place, as an optimizer does: an averager that keeps no copy is caught.
    live = {name: torch.zeros_like(tensor) for name, tensor in weights[0].items()}
    for step in range(first, len(weights)):
        for name, tensor in weights[step].items():
            live[name].copy_(tensor)
        averager.after_step(step, live)
        stop = step in losses and averager.after_evaluation(step, live, losses[step], 1 / (1 + losses[step]))
        yield step, stop


def finished(averager: Averager, weights: Trajectory, losses: dict[int, float]) -> dict[str, Tensor]:
    for _, stop in train(averager, weights, losses):
        if stop:
            break
    return averager.result(weights[-1])


def mean_of(weights: Trajectory, steps: range) -> dict[str, np.ndarray]:
    return {
        name: np.mean([weights[step][name].double().numpy() for step in steps], axis=0) for name in weights[0]
    }


def assert_close(found: dict[str, Tensor], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name], atol=2e-6)


def algorithm_1(losses: list[float], n_s: int, n_e: int, r: float) -> tuple[int | None, int, bool]:
    """(t_s, t_e, dead) as indices of evaluations, by Cha et al.'s algorithm 1 line by line."""
    threshold, t_s, t_e = None, None, len(losses) - 1
    for i in range(len(losses)):
        if threshold is None:
            window = losses[max(0, i - n_s + 1) : i + 1]
            if len(window) == n_s and window[0] == min(window):
                t_s, threshold = i - n_s + 1, (1 + r) * sum(window) / n_s
        elif threshold < min(losses[max(0, i - n_e + 1) : i + 1]):
            return t_s, i - n_e, True
    return t_s, t_e, False


def random_losses(rng: np.random.Generator) -> list[float]:
    """Falling, then rising or not, with noise: valleys of every kind, and none."""
    count = int(rng.integers(1, 30))
    bottom, slope = rng.integers(0, count + 1), rng.choice([0.0, 0.02, 0.1, 0.5])
    curve = np.abs(np.arange(count) - bottom) * np.where(np.arange(count) < bottom, 0.1, slope)
    return list(np.abs(0.5 + curve + rng.normal(scale=rng.choice([0.0, 0.05, 0.4]), size=count)))


def test_swad_is_algorithm_1() -> None:
    rng = np.random.default_rng(0)
    kinds: dict[tuple[bool, bool], int] = {}
    for _ in range(400):
        losses = random_losses(rng)
        n_s, n_e, r = int(rng.integers(1, 6)), int(rng.integers(1, 8)), float(rng.choice([0.01, 0.1, 0.3]))
        # Segments of unequal length: the last one of a stage often is shorter.
        ends = np.cumsum(rng.integers(1, 4, size=len(losses))) - 1
        weights = trajectory(int(ends[-1]) + 1, seed=int(rng.integers(1000)))
        averager = start_averaging(
            StageRecipe(averaging="swad", swad=SwadRecipe(converge=n_s, tolerance=n_e, ratio=r))
        )
        found = finished(averager, weights, dict(zip(ends.tolist(), losses, strict=True)))

        t_s, t_e, dead = algorithm_1(losses, n_s, n_e, r)
        first = len(losses) - 1 if t_s is None else t_s
        steps = range(int(ends[first - 1]) + 1 if first else 0, int(ends[t_e]) + 1)
        assert_close(found, mean_of(weights, steps))
        report = averager.report()
        assert isinstance(report, SwadReport)
        assert (report.converged, report.dead) == (t_s is not None, dead)
        assert (report.start_step, report.end_step) == (steps[0], steps[-1])
        assert report.averaged_steps == len(steps)
        kind = (t_s is not None, dead)
        kinds[kind] = kinds.get(kind, 0) + 1
    assert all(kinds[kind] > 20 for kind in [(False, False), (True, False), (True, True)]), kinds


def swad(losses: list[float], **settings: Any) -> tuple[SwadReport, dict[str, Tensor], Trajectory]:
    """Report, result and weights of a stage with one step per segment."""
    averager = start_averaging(StageRecipe(averaging="swad", swad=SwadRecipe(**settings)))
    weights = trajectory(len(losses))
    result = finished(averager, weights, dict(enumerate(losses)))
    report = averager.report()
    assert isinstance(report, SwadReport)
    return report, result, weights


def test_swad_by_hand() -> None:
    # The start is at 1.0, where the next two are no smaller; threshold 1.3 * 1.1 = 1.43.
    losses = [3.0, 2.0, 1.0, 1.2, 1.1, 1.5, 1.4, 1.5, 1.6, 1.5, 9.9]
    report, result, weights = swad(losses, converge=3, tolerance=3, ratio=0.3)
    assert report.converged and report.dead
    assert report.threshold == pytest.approx(1.43)
    assert (report.start_step, report.end_step, report.averaged_steps) == (2, 6, 5)
    assert len(report.segments) == 10  # the third over in a row stopped the training
    assert report.segments[3] == Segment(start_step=3, end_step=3, loss=1.2, accuracy=1 / 2.2)
    assert_close(result, mean_of(weights, range(2, 7)))


def test_a_run_that_the_end_cuts_short_belongs_to_the_valley() -> None:
    report, result, weights = swad([1.0, 1.1, 1.1, 5.0, 5.0], converge=3, tolerance=3)
    assert not report.dead
    assert_close(result, mean_of(weights, range(5)))


def test_swad_that_never_converges_says_so_and_gives_the_last_segment() -> None:
    report, result, weights = swad([5.0, 4.0, 3.0, 2.0])
    assert not report.converged and report.threshold is None
    assert (report.start_step, report.averaged_steps) == (3, 1)
    assert_close(result, mean_of(weights, range(3, 4)))


def test_a_dead_valley_takes_in_nothing_more() -> None:
    recipe = StageRecipe(averaging="swad", swad=SwadRecipe(converge=1, tolerance=1))
    averager, weights = start_averaging(recipe), trajectory(5)
    stops = [stop for _, stop in train(averager, weights, dict(enumerate([1.0, 9.0, 0.1, 0.1, 0.1])))]
    assert stops == [False, True, True, True, True]
    assert_close(averager.result(weights[-1]), mean_of(weights, range(1)))


@pytest.mark.parametrize("loss", [-0.1, float("nan"), float("inf")])
def test_swad_refuses_a_loss_without_meaning(loss: float) -> None:
    with pytest.raises(ModelError, match=r"swad: the validation loss at step 1 .* expected .* >= 0"):
        swad([1.0, loss])


def test_swad_holds_few_means() -> None:
    averager = start_averaging(StageRecipe(averaging="swad", swad=SwadRecipe(converge=3, tolerance=6)))
    losses = [5.0, 4.0, 3.0, 2.0, 1.0, 1.1, 1.2, 9.0, 9.0, 9.0, 9.0, 1.0, 9.0]
    held = []
    for _ in train(averager, trajectory(len(losses)), dict(enumerate(losses))):
        state = averager.state()
        means = [*state["recent"], state["valley"], state["run"], state["open"]]
        held.append(sum(mean["steps"] > 0 for mean in means))
    assert held == [1, 2, 3, 3, 3, 3, 1, 2, 2, 2, 2, 1, 2]


def test_ema_is_its_closed_form() -> None:
    weights, d = trajectory(50), 0.9
    averager = start_averaging(StageRecipe(averaging="ema", ema_decay=d))
    shares = np.array([(1 - d) * d ** (50 - i) / (1 - d**50) for i in range(1, 51)])
    assert shares.sum() == pytest.approx(1)
    expected = {
        name: np.tensordot(shares, np.stack([w[name].double().numpy() for w in weights]), axes=1)
        for name in weights[0]
    }
    assert_close(finished(averager, weights, {}), expected)
    assert averager.report() == EmaReport("ema", decay=d, averaged_steps=50)


@pytest.mark.parametrize("kind", ["best", "oracle"])
def test_best_is_the_first_with_the_highest_accuracy(kind: str) -> None:
    weights = trajectory(8)
    averager = start_averaging(StageRecipe(averaging=kind))  # type: ignore[arg-type]
    result = finished(averager, weights, {1: 2.0, 3: 0.5, 5: 0.5, 7: 1.0})  # accuracy falls with the loss
    assert_close(result, weights[3])
    assert averager.report() == BestReport(kind, step=3, loss=0.5, accuracy=1 / 1.5)  # type: ignore[arg-type]


def test_last_is_a_copy_of_the_current_weights() -> None:
    weights = trajectory(3)
    result = finished(start_averaging(StageRecipe(averaging="last")), weights, {2: 1.0})
    assert all(torch.equal(result[name], tensor) for name, tensor in weights[-1].items())
    result["projector.bias"].zero_()
    assert weights[-1]["projector.bias"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_interruption_anywhere_changes_no_bit(kind: str) -> None:
    recipe = StageRecipe(averaging=kind, swad=SwadRecipe(converge=2, tolerance=2))  # type: ignore[arg-type]
    losses = dict(zip(range(1, 24, 2), [3, 2, 1, 1.2, 1.1, 2, 1, 2, 1, 3, 3, 1], strict=True))
    weights = trajectory(24)
    whole = start_averaging(recipe)
    stops = [stop for _, stop in train(whole, weights, losses)]
    expected = whole.result(weights[-1])
    for cut in range(24):
        before = start_averaging(recipe)
        for step, _ in train(before, weights, losses):
            if step == cut:
                break
        saved = io.BytesIO()
        torch.save(before.state(), saved)
        saved.seek(0)
        after = start_averaging(recipe)
        after.restore(torch.load(saved, weights_only=True), weights[0])
        rest = [stop for _, stop in train(after, weights, losses, first=cut + 1)]
        assert rest == stops[cut + 1 :]
        assert after.report() == whole.report()
        found = after.result(weights[-1])
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_results_keep_dtype_and_memory_format_and_carry_no_gradient(kind: str) -> None:
    parameters = {
        "conv": torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "half": torch.nn.Parameter(torch.randn(3, dtype=torch.bfloat16)),
    }
    averager = start_averaging(StageRecipe(averaging=kind))  # type: ignore[arg-type]
    for step in range(3):
        averager.after_step(step, parameters)
        averager.after_evaluation(step, parameters, 1.0, 0.5)
    result = averager.result(parameters)
    for name, tensor in result.items():
        assert tensor.dtype == parameters[name].dtype and not tensor.requires_grad
        assert torch.allclose(tensor, parameters[name])
    assert result["conv"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["swad", "ema", "best", "oracle"])
def test_a_result_before_anything_was_seen_is_a_bug_of_the_caller(kind: str) -> None:
    averager = start_averaging(StageRecipe(averaging=kind))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no weights were seen"):
        averager.result(trajectory(1)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_never_waits_for_the_device(kind: str) -> None:
    parameters = {"weight": torch.randn(64, 64, device="cuda")}
    averager = start_averaging(StageRecipe(averaging=kind))  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4):
            averager.after_step(step, parameters)
            averager.after_evaluation(step, parameters, 1.0, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert averager.result(parameters)["weight"].device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_loaded_on_the_cpu_goes_on_on_the_gpu(kind: str) -> None:
    recipe = StageRecipe(averaging=kind, swad=SwadRecipe(converge=2, tolerance=2))  # type: ignore[arg-type]
    losses = dict(enumerate([3.0, 2.0, 1.0, 1.1, 1.2, 9.0, 1.0, 1.0]))
    weights = [{name: t.cuda() for name, t in step.items()} for step in trajectory(8)]
    expected = finished(start_averaging(recipe), weights, losses)
    for cut in range(7):
        before, after = start_averaging(recipe), start_averaging(recipe)
        for step, _ in train(before, weights, losses):
            if step == cut:
                break
        saved = io.BytesIO()
        torch.save(before.state(), saved)
        saved.seek(0)
        after.restore(torch.load(saved, map_location="cpu", weights_only=True), weights[0])
        for _ in train(after, weights, losses, first=cut + 1):
            pass
        found = after.result(weights[-1])
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
