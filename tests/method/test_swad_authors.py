"""SWAD as its authors' code computes it, against two other readings of that code, and itself interrupted."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers.deep_copies import LossValley, ModelMean
from vl2v_deploy.method.averaging import start_averaging
from vl2v_deploy.method.hand_over import BestCheckpoint
from vl2v_deploy.method.reports import Segment, SwadReport
from vl2v_deploy.method.swad_authors import AuthorsSwad
from vl2v_deploy.recipe import StageRecipe, SwadRecipe


def stage(segments: str = "since_evaluation", *, from_first_step: bool = True, **rule: Any) -> StageRecipe:
    swad = SwadRecipe.model_validate({"variant": "authors", "segments": segments, **rule})
    return StageRecipe(averaging="swad", swad=swad, evaluate_from_first_step=from_first_step)


def segments_in_the_mean(losses: list[float], n_s: int, n_e: int, r: float) -> tuple[list[int], bool, bool]:
    """Which segments their result is the plain mean of, with repetitions; whether converged, and dead.

    Written from a description of the rule, on indices alone, every queue rebuilt at every evaluation.
    """
    members: list[int] = []
    found = None  # (start, threshold)
    for now in range(len(losses)):
        queue = list(range(max(0, now - n_e + 1), now + 1))
        if found is None:
            if now + 1 < n_s:
                continue
            candidates = list(range(now - n_s + 1, now + 1))
            best = int(np.argmin([losses[c] for c in candidates]))
            if best != 0:
                continue
            found = candidates[0], (1 + r) * float(np.mean([losses[c] for c in candidates]))
            if n_e > n_s:
                looked_at = queue[: n_e - n_s + 1]
                begin = 0
                for place in range(len(looked_at)):
                    if losses[looked_at[place]] > found[1]:
                        begin = place + 1
                members += looked_at[begin + 1 :]
            elif n_e < n_s:
                members += candidates[1 : 1 + n_s - n_e]
        elif queue[0] >= found[0]:
            if min(losses[q] for q in queue) > found[1]:
                return members or [found[0]], True, True
            members.append(queue[0])
    if found is None:
        return [len(losses) - 1], False, False
    queue = list(range(max(0, len(losses) - n_e), len(losses)))[1:]
    while queue and min(losses[q] for q in queue) <= found[1]:
        members.append(queue.pop(0))
    return members or [found[0]], True, False


def curves(count: int) -> list[list[float]]:
    """Realistic validation losses: they fall, then rise or not, with noise."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(rng.integers(1, 30))
        bottom, slope = rng.integers(0, length + 1), rng.choice([0.0, 0.02, 0.1, 0.5])
        curve = np.abs(np.arange(length) - bottom) * np.where(np.arange(length) < bottom, 0.1, slope)
        made.append(list(np.abs(0.5 + curve + rng.normal(scale=rng.choice([0.0, 0.05, 0.4]), size=length))))
    return made


def trained(
    averager: Any, weights: np.ndarray, ends: list[int], losses: list[float], first: int = 0
) -> list[bool]:
    """Each step, an evaluation after those in `ends`, until the averager ends it; weights (steps, 3)."""
    live = {"w": torch.zeros(weights.shape[1])}
    stops = []
    for step in range(first, len(weights)):
        live["w"].copy_(torch.from_numpy(weights[step]).float())
        averager.after_step(step, live)
        if step in ends:
            loss = losses[ends.index(step)]
            stops.append(averager.after_evaluation(step, live, loss, 1 / (1 + loss)))
            if stops[-1]:
                break
    return stops


def result_of(averager: Any) -> np.ndarray:
    return averager.result({"w": torch.zeros(3)})["w"].double().numpy()


def test_the_authors_mean_is_that_of_an_independent_transcription() -> None:
    rng = np.random.default_rng(1)
    kinds: dict[tuple[bool, bool], int] = {}
    unlike_algorithm_1 = 0
    for losses in curves(400):
        n_s, n_e = (3, 6) if rng.random() < 0.5 else rng.integers(1, 7, size=2).tolist()
        ends = (np.cumsum(rng.integers(1, 4, size=len(losses))) - 1).tolist()
        weights = rng.normal(size=(ends[-1] + 1, 3))
        rule = {"converge": n_s, "tolerance": n_e, "ratio": 0.3}
        averager, theirs = start_averaging(stage(**rule)), LossValley(SwadRecipe(**rule))
        assert isinstance(averager, AuthorsSwad)
        trained(averager, weights, ends, losses)

        members, converged, dead = segments_in_the_mean(losses, n_s, n_e, 0.3)
        begins = [0, *(end + 1 for end in ends)]
        means = [weights[begin : end + 1].mean(axis=0) for begin, end in zip(begins, ends, strict=False)]
        np.testing.assert_allclose(
            result_of(averager), np.mean([means[m] for m in members], axis=0), atol=1e-5
        )
        report = averager.report()
        assert isinstance(report, SwadReport) and report.variant == "authors"
        assert (report.converged, report.dead, report.joined) == (converged, dead, tuple(members))
        assert report.start_step == begins[min(members)] and report.end_step == ends[max(members)]
        assert report.averaged_steps == sum(ends[m] - begins[m] + 1 for m in set(members))

        for number, (mean, loss) in enumerate(zip(means, losses, strict=True)):  # with deep copies of models
            segment = ModelMean(model_of(mean))
            segment.add(model_of(mean), number, number)
            theirs.close(segment, loss)
        copied = next(theirs.result().module.parameters()).detach().double().numpy()[0]
        np.testing.assert_allclose(result_of(averager), copied, atol=1e-5)

        ours = start_averaging(StageRecipe(averaging="swad", swad=SwadRecipe(**rule)))
        trained(ours, weights, ends, losses)
        unlike_algorithm_1 += not np.allclose(result_of(ours), result_of(averager), atol=1e-4)
        kinds[converged, dead] = kinds.get((converged, dead), 0) + 1
    assert all(kinds[kind] > 20 for kind in [(False, False), (True, False), (True, True)]), kinds
    assert unlike_algorithm_1 > 100


def model_of(weights: np.ndarray) -> nn.Module:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weights)[None])
    return model


def test_the_authors_begin_before_the_valley_count_its_start_again_and_drop_the_tail() -> None:
    # Found at evaluation 8, whose last three begin with segment 6; the window then holds segments 3 to 8.
    losses = [9.0, 5.0, 4.0, 1.2, 1.1, 1.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0]
    averager = start_averaging(stage())
    trained(averager, np.zeros((len(losses), 3)), list(range(len(losses))), losses)
    report = averager.report()
    assert isinstance(report, SwadReport)
    assert report.threshold == pytest.approx(1.3)
    assert report.joined == (4, 5, 6, 6, 7, 8, 9, 10, 11, 12)
    assert not report.dead


@pytest.mark.parametrize("from_first_step", [True, False])
def test_the_authors_cumulative_segments_begin_anew_at_thousands_past_2500(from_first_step: bool) -> None:
    every, steps = 200, 4201
    recipe = stage("cumulative", from_first_step=from_first_step)
    shift = 0 if from_first_step else 1
    ends = [step for step in range(steps) if (step + shift) % every == 0]
    weights = np.arange(steps, dtype=float)[:, None] * np.ones(3) / steps
    averager = AuthorsSwad(recipe)
    # Falling to the end: it never converges, and the last segment is the result.
    for last in (ends[5], 2800 - shift, 3000 - shift, 3200 - shift, 4000 - shift, 4200 - shift):
        averager = AuthorsSwad(recipe)
        upto = [end for end in ends if end <= last]
        trained(averager, weights[: last + 1], upto, [100.0 - number for number in range(len(upto))])
        restart = max([0, *(s + 1 - shift for s in (3000, 4000) if s - shift < last)])
        # fp32 over thousands of steps; one step more or less would be 1.2e-4
        np.testing.assert_allclose(result_of(averager), weights[restart : last + 1].mean(axis=0), atol=4e-5)
    assert averager.segments[-1] == Segment(4001 - shift, 4200 - shift, *found_at(averager))


def found_at(averager: AuthorsSwad) -> tuple[float, float]:
    return averager.segments[-1].loss, averager.segments[-1].accuracy


@pytest.mark.parametrize("segments", ["since_evaluation", "cumulative"])
@pytest.mark.parametrize("hand_over", [False, True])
def test_an_interruption_anywhere_changes_no_bit_of_the_authors_mean(segments: str, hand_over: bool) -> None:
    recipe = stage(segments, converge=2, tolerance=3)
    losses = [3, 2, 1, 1.2, 1.1, 2, 1, 2, 1, 3, 3, 3, 3, 1]
    ends = list(range(0, 2 * len(losses), 2))
    weights = np.random.default_rng(0).normal(size=(ends[-1] + 1, 3))

    def start() -> Any:
        averager = start_averaging(recipe)
        return BestCheckpoint(averager, 5) if hand_over else averager

    whole = start()
    stops = trained(whole, weights, ends, losses)
    assert stops[-1] and len(stops) < len(losses)
    for cut in range(2 * len(stops) - 1):
        before = start()
        before_cut = trained(before, weights[: cut + 1], ends, losses)
        saved = io.BytesIO()
        torch.save(before.state(), saved)
        saved.seek(0)
        after = start()
        after.restore(torch.load(saved, weights_only=True), {"w": torch.zeros(3)})
        assert [
            *before_cut,
            *trained(after, weights, ends, losses, first=cut + 1),
        ] == stops or before_cut == stops
        assert after.report() == whole.report()
        assert np.array_equal(result_of(after), result_of(whole))


def test_the_authors_checkpoint_is_the_last_of_the_best_from_a_step_on() -> None:
    accuracies = {0: 0.9, 2: 0.5, 4: 0.8, 6: 0.8, 8: 0.7}
    weights: list[dict[str, Tensor]] = [{"w": torch.full((2,), float(step))} for step in range(9)]
    for first_step, chosen in ((0, 0), (1, 6), (7, 8)):
        checkpoint = BestCheckpoint(start_averaging(stage()), first_step)
        for step, parameters in enumerate(weights):
            checkpoint.after_step(step, parameters)
            if step in accuracies:
                assert not checkpoint.after_evaluation(step, parameters, 1.0 + step, accuracies[step])
        assert (checkpoint.step, checkpoint.accuracy) == (chosen, accuracies[chosen])
        assert torch.equal(checkpoint.result(weights[-1])["w"], weights[chosen]["w"])
        assert isinstance(checkpoint.report(), SwadReport)


def test_a_valley_that_dies_before_there_is_a_checkpoint_does_not_end_the_stage() -> None:
    recipe = stage(converge=1, tolerance=1)
    checkpoint = BestCheckpoint(start_averaging(recipe), 3)
    live = {"w": torch.zeros(2)}
    stops = []
    for step, loss in enumerate([1.0, 9.0, 9.0, 9.0]):
        checkpoint.after_step(step, live)
        stops.append(checkpoint.after_evaluation(step, live, loss, 0.5))
    assert stops == [False, False, False, True]


def test_the_authors_variant_holds_few_means() -> None:
    averager = AuthorsSwad(stage(converge=3, tolerance=6))
    losses = [9.0 - number for number in range(8)] + [1.0] * 12
    held = []
    for number, loss in enumerate(losses):
        averager.after_step(number, {"w": torch.zeros(2)})
        averager.after_evaluation(number, {"w": torch.zeros(2)}, loss, 0.5)
        held.append(len(averager.state()["held"]))
    assert max(held) == 6
