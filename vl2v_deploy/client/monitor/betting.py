"""A two-sample test that may look after every image: bets against "this is as the reference was".

If the images that come are exchangeable with those of the reference, the rank of each new score among the
reference's and those before it, ties broken at random, is uniform on [0, 1] and independent of the earlier
ranks (Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line, 2003): exactly so, whatever the
distribution and however few images the reference has. Bettors multiply their wealth by a density of that
rank, so that their expected wealth stays 1, and the chance that it ever reaches 1 / alpha is at most alpha
(Ville, 1939). A bettor may know earlier ranks, but not the images themselves. Bets on different scores are
not added up, as together they need not be fair: alpha is divided among the scores (Vovk, Testing randomness
online, 2021). Each bettor's money is staked in part at once and in part later, since drift may begin later
(Shin, Ramdas and Rinaldo, E-detectors, 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Counts: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
# ranks (..., S) to the factors of F bettors' wealth (..., S, F)
Bettors: TypeAlias = Callable[[Floats], Floats]

AT_ONCE = 0.5  # share of the money that is staked at the first image
_SLOPES = np.array([-1.0, -0.6, -0.3, 0.3, 0.6, 1.0])
_BENDS = np.array([-0.6, 0.9])
_ODDS = np.array([0.2, 0.5, 2.0, 5.0])[:, None]  # how many times as large they are now
_GRID = np.array([0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005])
_SHARES = np.tile(_GRID, len(_ODDS))
_NOW = (_ODDS * _GRID / (1.0 - _GRID + _ODDS * _GRID)).reshape(-1)
_MOST = 1e100  # wealth is cut here: far beyond any threshold, and no product of it overflows


def tilts(rank: Floats) -> Floats:
    """Factors of bettors on scores that fell, rose, spread or drew together; each integrates to 1 over rank.

    rank: (..., S) in [0, 1]
    """
    x = rank[..., None]
    slopes = 1.0 + _SLOPES * (2.0 * x - 1.0)
    bends = 1.0 + _BENDS * (6.0 * x * x - 6.0 * x + 1.0)  # Legendre's second polynomial on [0, 1]
    return np.concatenate([slopes, bends], axis=-1)


def odds(rank: Floats) -> Floats:
    """Factors of bettors on events, bin 0 of two, whose odds have changed; each integrates to 1 over rank.

    Each takes the event's share to be one of a fixed grid: a share that was observed would tell more than
    earlier ranks do.

    rank: (..., S) in [0, 1]
    """
    x = rank[..., None]
    return np.asarray(np.where(x <= _SHARES, _NOW / _SHARES, (1.0 - _NOW) / (1.0 - _SHARES)))


class Bets:
    """The wealth of the bettors on S scores, each in one of B bins, from one restart to the next.

    Leading axes are independent repetitions, for simulation.

    reference: (..., S, B) images of the reference in each bin; fractions where they depend on each other
    length:    images until a restart; the money not staked at once is staked evenly over them
    """

    def __init__(self, reference: Counts | Floats, bettors: Bettors, length: int) -> None:
        self._reference, self._bettors, self._length = reference.astype(np.float64), bettors, length
        self._places = np.arange(reference.shape[-1])
        factors = bettors(np.full(reference.shape[:-1], 0.5))
        self._log_gain = np.zeros_like(factors)  # of each bettor since it was best to begin
        self._began = np.zeros(factors.shape, np.int64)
        self.restart()

    def restart(self) -> None:
        """Forget all but the reference, and give each bettor its money again."""
        self._pool = self._reference.copy()
        self._staked = np.full_like(self._log_gain, AT_ONCE)
        self._later = 1.0 - AT_ONCE

    def bet(self, bins: Counts, luck: Floats, number: int) -> None:
        """Take in the next image.

        bins:   (..., S) its bin in each score
        luck:   (..., S) uniform in [0, 1), by which ties are broken
        number: of the image, kept as the time when drift began
        """
        here = self._places == bins[..., None]  # (..., S, B)
        below = np.where(self._places < bins[..., None], self._pool, 0).sum(-1)
        total = self._pool.sum(-1)
        equal = np.where(here, self._pool, 0).sum(-1) + 1
        factors = self._bettors((below + luck * equal) / (total + 1.0))
        self._pool = self._pool + here
        stake = min(self._later, (1.0 - AT_ONCE) / self._length)
        self._later -= stake
        self._staked = np.minimum((self._staked + stake) * factors, _MOST)
        self._note(factors, number)

    def _note(self, factors: Floats, number: int) -> None:
        """Page's recursion: a bettor that would have done better to wait begins again."""
        waiting = self._log_gain <= 0.0
        self._began = np.where(waiting, number, self._began)
        self._log_gain = np.maximum(self._log_gain, 0.0) + np.log(np.maximum(factors, 1e-300))

    @property
    def wealth(self) -> Floats:
        """Of each score's bettors together, having begun with 1; (..., S)."""
        return np.asarray(self._staked.mean(-1) + self._later)

    @property
    def began(self) -> Counts:
        """Number of the image from which on the best bettor of each score has won; (..., S)."""
        best = self._log_gain.argmax(-1)[..., None]
        return np.asarray(np.take_along_axis(self._began, best, -1)[..., 0])


def share_of_alpha(number: int) -> float:
    """The part of alpha that the stretch of this number, from 1 on, may spend; all of them sum to 1.

    1 / log(n + 1) - 1 / log(n + 2) falls as 1 / (n log^2 n), slow enough that late stretches keep their say.
    """
    return float(np.log(2.0) * (1.0 / np.log(number + 1.0) - 1.0 / np.log(number + 2.0)))
