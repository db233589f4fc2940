"""Temperature and abstention against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vl2v_deploy.exporting.confidence import calibrate, confidence_of
from vl2v_deploy.method.confidence import abstain_threshold, fit_temperature, precision_threshold


def overconfident(images: int = 400, factor: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits from which labels were drawn, then multiplied: the right temperature is near `factor`."""
    generator = torch.Generator().manual_seed(0)
    honest = 2.0 * torch.randn(images, 4, generator=generator)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return factor * honest, labels


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    logits, labels = overconfident()
    grid = np.geomspace(0.5, 50.0, 2000)
    losses = [F.cross_entropy(logits.double() / t, labels).item() for t in grid]
    assert fit_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(losses))], rel=0.005)
    assert fit_temperature(logits, labels) == pytest.approx(5.0, rel=0.2)


def test_a_temperature_without_a_minimum_stays_at_its_bound() -> None:
    logits = torch.eye(3)
    assert fit_temperature(logits, torch.tensor([0, 1, 2])) == pytest.approx(0.01)  # all right
    assert fit_temperature(logits, torch.tensor([1, 2, 0])) == pytest.approx(100.0)  # all wrong
    with pytest.raises(ValueError, match="no images"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_of_two_sets_that_weigh_the_same_the_large_one_does_not_outvote_the_small_one() -> None:
    logits, labels = overconfident(factor=5.0)
    mild, their_labels = overconfident(images=40, factor=1.0)
    both, of_both = torch.cat([logits, mild]), torch.cat([labels, their_labels])
    weights = torch.cat([torch.full((400,), 1 / 800), torch.full((40,), 1 / 80)]).double()
    grid = np.geomspace(0.5, 50.0, 2000)
    losses = [
        (F.cross_entropy(logits.double() / t, labels) + F.cross_entropy(mild.double() / t, their_labels)) / 2
        for t in grid
    ]
    found = fit_temperature(both, of_both, weights)
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.005)
    assert fit_temperature(both, of_both, 7 * weights) == pytest.approx(found)
    assert fit_temperature(both, of_both) > 1.1 * found  # pooled, the 400 images decide
    assert fit_temperature(both, of_both, torch.ones(440)) == fit_temperature(both, of_both)


def test_calibration_lowers_the_error_and_moves_no_label() -> None:
    logits, labels = overconfident()
    found = calibrate(logits.numpy(), labels.numpy(), np.ones(400), 0.8, "images")
    assert found.ece_after < 0.5 * found.ece_before
    assert found.note == ""
    confidence = confidence_of(logits.numpy() / found.temperature)
    answered = confidence >= found.abstain_below
    assert answered.mean() == pytest.approx(0.8, abs=0.01)
    right = (logits.argmax(1) == labels).numpy()
    assert found.accuracy_of_answered == pytest.approx(right[answered].mean())
    assert found.accuracy_of_answered > right.mean()  # the least confident are wrong more often


def test_calibration_by_weight_is_that_of_each_image_as_often_as_it_weighs() -> None:
    logits, labels = (part.numpy() for part in overconfident())
    often = 1 + np.arange(400) % 3
    weighted = calibrate(logits, labels, often / often.sum(), 0.8, "domains")
    repeated = calibrate(
        logits.repeat(often, axis=0), labels.repeat(often), np.ones(often.sum()), 0.8, "images"
    )
    assert (weighted.validation_mean, repeated.validation_mean) == ("domains", "images")
    for name in ("temperature", "ece_before", "ece_after"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-6)
    answered = confidence_of(logits / weighted.temperature) >= weighted.abstain_below
    right = logits.argmax(1) == labels
    assert often[answered].sum() / often.sum() == pytest.approx(0.8, abs=3 / 800)
    assert weighted.accuracy_of_answered == pytest.approx(
        (often * right)[answered].sum() / often[answered].sum()
    )
    pooled = calibrate(logits, labels, np.ones(400), 0.8, "images")
    assert weighted.ece_before != pytest.approx(pooled.ece_before, rel=1e-6)


def test_images_that_are_all_right_are_reported() -> None:
    found = calibrate(np.eye(3, dtype=np.float32), np.arange(3), np.ones(3), 1.0, "images")
    assert found.note
    assert found.temperature == 1.0 and found.ece_after == found.ece_before


@pytest.mark.parametrize(("coverage", "expected"), [(1.0, 0.1), (0.5, 0.6), (0.01, 0.9)])
def test_the_threshold_answers_as_many_as_asked(coverage: float, expected: float) -> None:
    confidence = torch.tensor([0.1, 0.9, 0.6, 0.3], dtype=torch.float64)
    assert abstain_threshold(confidence, coverage) == pytest.approx(expected)


def test_the_last_image_that_is_answered_is_not_under_its_own_threshold() -> None:
    confidence = torch.tensor([0.55555583, 0.9], dtype=torch.float64)
    assert abstain_threshold(confidence, 1.0) <= confidence.min()


def test_the_threshold_answers_a_share_of_the_weight() -> None:
    confidence = torch.tensor([0.1, 0.9, 0.6, 0.3], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 1.0, 5.0])
    assert abstain_threshold(confidence, 0.25, weights) == pytest.approx(0.6)  # 2 of 8
    assert abstain_threshold(confidence, 0.6, weights) == pytest.approx(0.3)  # 7 of 8 is nearer than 2 of 8
    assert abstain_threshold(confidence, 0.375) == pytest.approx(0.6)  # as near to 1 as to 2 of 4


@pytest.mark.parametrize("coverage", [0.0, 1.1, float("nan")])
def test_a_coverage_that_is_none(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        abstain_threshold(torch.tensor([0.5]), coverage)


@pytest.mark.parametrize("precision", [0.3, 0.6, 0.8, 1.0])
def test_the_precision_threshold_is_the_lowest_that_is_precise_enough(precision: float) -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = (torch.rand(200, generator=generator) * 20).round() / 20  # many are equal
    right = torch.rand(200, generator=generator) < confidence
    shares = {c: right[confidence >= c].double().mean().item() for c in confidence.unique().tolist()}
    enough = [c for c, share in shares.items() if share >= precision]
    assert precision_threshold(confidence, right, precision) == min(enough, default=float("inf"))


def test_no_threshold_is_precise_where_the_surest_are_wrong() -> None:
    assert precision_threshold(torch.tensor([0.9, 0.8]), torch.tensor([False, False]), 0.5) == float("inf")


@pytest.mark.parametrize("precision", [0.3, 0.6, 0.8, 1.0])
def test_the_precision_threshold_by_weight_is_that_of_each_image_as_often_as_it_weighs(
    precision: float,
) -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = (torch.rand(200, generator=generator) * 20).round() / 20
    right = torch.rand(200, generator=generator) < confidence
    often = torch.randint(1, 4, (200,), generator=generator)
    repeated = (confidence.repeat_interleave(often), right.repeat_interleave(often))
    expected = precision_threshold(*repeated, precision)
    assert precision_threshold(confidence, right, precision, often / often.sum()) == expected
    assert precision_threshold(confidence, right, precision, torch.full((200,), 1 / 3)) == (
        precision_threshold(confidence, right, precision)
    )


def test_a_large_domain_does_not_outvote_a_small_one_about_the_threshold() -> None:
    confidence = torch.tensor([0.9] * 8 + [0.8, 0.7])
    right, weights = torch.tensor([True] * 8 + [False] * 2), torch.tensor([1 / 16] * 8 + [1 / 4] * 2)
    assert precision_threshold(confidence, right, 0.75) == pytest.approx(0.7)  # pooled, 8 of 10 are right
    assert precision_threshold(confidence, right, 0.75, weights) == pytest.approx(0.9)


def test_a_precision_that_is_reached_exactly_is_not_refused_for_rounding() -> None:
    for images in range(2, 30):
        right = torch.arange(images) < 1
        weights = torch.full((images,), 1 / (3 * images), dtype=torch.float64)
        assert precision_threshold(torch.full((images,), 0.5), right, 1 / images, weights) == 0.5
