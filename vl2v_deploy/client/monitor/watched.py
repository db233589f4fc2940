"""Scores of one kind: the bets on them, and the window of those that came last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vl2v_deploy.client.monitor.betting import Bets, Bettors, Counts, Floats


@dataclass(frozen=True)
class Statistic:
    """One thing that is watched, now and in the reference.

    name:      such as "confidence", "class mammal", "embedding direction 1"
    reference: mean in source validation: a probability, a share of images, or standard deviations
    window:    mean over the images of the window; None before the first
    distance:  largest difference of the two distributions, in [0, 1] (Kolmogorov and Smirnov's); for a share
               its difference. Chance alone makes some 1 / sqrt(images)
    evidence:  by how many times a bettor against "nothing changed" has multiplied the stake
    since:     image, counted from 1, from which on the bets were won; 0 before the first
    """

    name: str
    reference: float
    window: float | None
    distance: float
    evidence: float
    since: int


class Watched:
    """S scores that are always observed together. Not safe for threads: Monitor is.

    names:     S of them
    reference: (S, B) independent images that the reference is worth in each bin
    centres:   (B,) what each bin stands for
    window:    images that are kept, and stretch of the bets
    """

    def __init__(
        self, names: tuple[str, ...], reference: Floats, centres: Floats, bettors: Bettors, window: int
    ) -> None:
        self.names, self._reference, self._centres = names, reference, centres
        self._bets = Bets(reference, bettors, window)
        self._every = np.arange(len(names))
        self._kept = np.zeros((window, len(names)), np.uint8)  # bins of the last images, in a ring
        self._counts = np.zeros(reference.shape, np.int64)
        self._seen = 0

    def observe(self, bins: Counts, luck: Floats, number: int) -> None:
        """Take in one image: its bins (S,), S uniform draws that break ties, and its number."""
        place = self._seen % len(self._kept)
        if self._seen >= len(self._kept):
            self._counts[self._every, self._kept[place]] -= 1
        self._kept[place] = bins
        self._counts[self._every, bins] += 1
        self._seen += 1
        self._bets.bet(bins, luck, number)

    def restart(self) -> None:
        """Begin the bets again; the window stays."""
        self._bets.restart()

    @property
    def evidence(self) -> float:
        """The largest wealth that the bettors on one score have, over S: each score has 1 / S of alpha.

        Not the mean: wealths on different scores are each a fair game, their sum need not be one.
        """
        return float(self._bets.wealth.max()) / len(self.names)

    def statistics(self) -> list[Statistic]:
        """Where each score stands."""
        reference, images = self._reference, int(self._counts[0].sum())
        shares = reference / reference.sum(1, keepdims=True)
        now = self._counts / max(images, 1)
        gap = np.abs(np.cumsum(now - shares, axis=1)).max(1) if images else np.zeros(len(shares))
        before, means, won, began = (
            values.tolist()
            for values in (shares @ self._centres, now @ self._centres, self._bets.wealth, self._bets.began)
        )
        return [
            Statistic(name, before[s], means[s] if images else None, float(gap[s]), won[s], began[s])
            for s, name in enumerate(self.names)
        ]
