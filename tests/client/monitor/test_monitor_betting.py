"""The bets of a Monitor: fair when nothing changed, whatever the reference's size; won when something did."""

from __future__ import annotations

import numpy as np
import pytest

from vl2v_deploy.client.monitor.betting import Bets, Bettors, odds, share_of_alpha, tilts
from vl2v_deploy.client.monitor.design_effect import design_effects

RUNS, REFERENCE, STRETCH = 2000, 40, 64


def counted(values: np.ndarray, bins: int) -> np.ndarray:
    """(R, S, B) of bins (R, S, n)."""
    return (values[..., None] == np.arange(bins)).sum(-2)


def ever_alarmed(
    bettors: Bettors,
    share: float,
    bins: int,
    images: int,
    alpha: float,
    shift: float = 0.0,
    known: int = REFERENCE,
    stretch: int = STRETCH,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of RUNS monitors of one score ever alarms, and where it says that drift began.

    share: of probability in the first bin, the rest evenly; from half of the images on `shift` more
    known: images of the reference
    """
    random = np.random.default_rng(0)
    shares = np.array([share, *[(1.0 - share) / (bins - 1)] * (bins - 1)])
    later = shares + shift * np.array([1.0, *[-1.0 / (bins - 1)] * (bins - 1)])
    reference = random.choice(bins, (RUNS, 1, known), p=shares)
    bets = Bets(counted(reference, bins), bettors, stretch)
    alarmed, began = np.zeros(RUNS, bool), np.zeros(RUNS, np.int64)
    for number in range(images):
        if number and number % stretch == 0:
            bets.restart()
        drawn = random.choice(bins, (RUNS, 1), p=shares if number < images // 2 else later)
        bets.bet(drawn, random.random((RUNS, 1)), number + 1)
        now = bets.wealth[:, 0] >= 1.0 / (alpha * share_of_alpha(1 + number // stretch))
        began = np.where(now & ~alarmed, bets.began[:, 0], began)
        alarmed |= now
    return alarmed, began


@pytest.mark.parametrize(
    ("bettors", "share", "bins"), [(tilts, 1 / 8, 8), (tilts, 0.6, 3), (odds, 0.08, 2), (odds, 0.5, 2)]
)
def test_false_alarms_stay_within_alpha_however_often_one_looks(
    bettors: Bettors, share: float, bins: int
) -> None:
    """With a reference of 40 images, a look after each of 640, and many ties."""
    alpha = 0.2
    alarmed, _ = ever_alarmed(bettors, share, bins, images=640, alpha=alpha)
    assert alarmed.mean() <= alpha
    assert alarmed.any(), "a test that never alarms guarantees nothing worth having"


def test_a_bare_threshold_on_the_same_data_does_not_hold_the_rate() -> None:
    """What the bets are there for: a test of 5 % after every image against the reference's share."""
    random = np.random.default_rng(0)
    reference = random.random((RUNS, REFERENCE)).mean(1)
    seen = np.cumsum(random.random((RUNS, 640)), axis=1) / np.arange(1, 641)
    error = np.sqrt((1 / REFERENCE + 1 / np.arange(1, 641)) / 12)
    assert (np.abs(seen - reference[:, None]) > 1.96 * error).any(1).mean() > 0.2


@pytest.mark.parametrize(("bettors", "share", "bins"), [(tilts, 0.25, 4), (odds, 0.1, 2)])
def test_expected_wealth_stays_one(bettors: Bettors, share: float, bins: int) -> None:
    random = np.random.default_rng(1)
    shares = np.array([share, *[(1.0 - share) / (bins - 1)] * (bins - 1)])
    runs = 20_000
    bets = Bets(counted(random.choice(bins, (runs, 1, 7), p=shares), bins), bettors, STRETCH)
    for number in range(6):
        bets.bet(random.choice(bins, (runs, 1), p=shares), random.random((runs, 1)), number)
    wealth = bets.wealth[:, 0]
    assert abs(wealth.mean() - 1.0) < 4 * wealth.std() / np.sqrt(runs)
    assert wealth.std() > 0.05


@pytest.mark.parametrize("bettors", [tilts, odds])
def test_every_bettors_factor_integrates_to_one(bettors: Bettors) -> None:
    ranks = ((np.arange(100_000) + 0.5) / 100_000)[:, None]
    factors = bettors(ranks)
    np.testing.assert_allclose(factors.mean(0), 1.0, atol=1e-4)
    assert factors.min() >= 0.0


@pytest.mark.parametrize(("bettors", "share", "bins", "shift"), [(tilts, 0.125, 8, 0.6), (odds, 0.1, 2, 0.7)])
def test_drift_is_shown_and_its_beginning_found(
    bettors: Bettors, share: float, bins: int, shift: float
) -> None:
    alarmed, began = ever_alarmed(
        bettors, share, bins, images=256, alpha=0.01, shift=shift, known=300, stretch=256
    )
    assert alarmed.mean() > 0.95
    assert abs(np.median(began[alarmed]) - 129) <= 8


def test_a_restart_forgets_what_was_won_and_seen() -> None:
    reference = np.array([[30, 30]])
    bets, fresh = Bets(reference, tilts, STRETCH), Bets(reference, tilts, STRETCH)
    for number in range(20):
        bets.bet(np.array([0]), np.array([0.5]), number)
    assert bets.wealth[0] > 5.0
    bets.restart()
    assert bets.wealth[0] == 1.0
    for one in (bets, fresh):
        one.bet(np.array([1]), np.array([0.5]), 21)
    assert bets.wealth[0] == fresh.wealth[0]


def test_stretches_spend_alpha_once() -> None:
    spent = np.cumsum([share_of_alpha(number) for number in range(1, 100_001)])
    assert spent[-1] < 1.0
    assert spent[-1] + np.log(2.0) / np.log(100_002.0) == pytest.approx(1.0)


def test_wealth_never_overflows() -> None:
    bets = Bets(np.array([[1, 1000]]), odds, STRETCH)
    for number in range(3000):
        bets.bet(np.array([0]), np.array([0.0]), number)
    assert np.isfinite(bets.wealth).all()


def test_the_design_effect_is_the_variance_of_the_mean_over_many_samples() -> None:
    """Groups of 1 to 5 images in 3 classes; a group's part is as large as an image's own."""
    random = np.random.default_rng(3)
    sizes = np.tile([1, 2, 3, 4, 5], 12)
    groups, labels = np.repeat(np.arange(60), sizes), np.repeat(np.arange(60) % 3, sizes)
    together = random.normal(size=(4000, 60))[:, groups]
    values = 10.0 + labels + together + random.normal(size=(4000, len(groups)))
    expected = values.mean(1).var() / (values.var(1).mean() / len(groups))
    found = [design_effects(one[:, None], labels, [*map(str, groups)])[0] for one in values[:300]]
    assert 1.2 < expected == pytest.approx(np.mean(found), rel=0.1)
    assert design_effects(values[0][:, None], labels, [*map(str, range(len(groups)))])[0] == 1.0


def test_false_alarms_stay_within_alpha_where_the_reference_comes_in_groups() -> None:
    """40 groups of 4 equal images, which as 160 independent ones break it."""
    random, runs, alpha = np.random.default_rng(5), 1000, 0.2
    drawn = random.choice(8, (runs, 40))
    counts = 4 * counted(drawn[:, None], 8)
    groups = [str(n // 4) for n in range(160)]
    effect = np.stack(
        [design_effects(np.repeat(one, 4)[:, None], np.zeros(160, np.int64), groups) for one in drawn]
    )
    alarms = {}
    for name, reference in (("grouped", counts / effect[..., None]), ("taken as independent", counts)):
        bets, alarmed = Bets(reference, tilts, 256), np.zeros(runs, bool)
        for number in range(256):
            bets.bet(random.choice(8, (runs, 1)), random.random((runs, 1)), number + 1)
            alarmed |= bets.wealth[:, 0] >= 1.0 / alpha
        alarms[name] = alarmed.mean()
    assert alarms["grouped"] <= alpha < alarms["taken as independent"]
