"""Files timed in turn: what disturbs the machine for a while disturbs all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np

Key = TypeVar("Key")
FEWEST, MOST = 20, 100  # rounds: a median of less says little, one of more no more
LIMIT_S = 30.0  # after which no round beyond the fewest is begun


@dataclass(frozen=True)
class Times(Generic[Key]):
    """Milliseconds of one image: of each file the median and the least of as many rounds."""

    median_ms: dict[Key, float]
    least_ms: dict[Key, float]
    rounds: int

    @property
    def busy(self) -> float:
        """The largest ratio of a median to the least: 1 on a machine that does nothing else."""
        return max((self.median_ms[key] / least for key, least in self.least_ms.items()), default=1.0)


def timed(sessions: Mapping[Key, Any], size_px: int, advance: Callable[[], object]) -> Times[Key]:
    """One image through each session, in rounds in which each has its turn.

    From pixels in memory to logits; decoding and resizing, which cost the same for all, are left out.

    size_px: S, of the images that they take
    advance: called after each round
    """
    image = np.random.default_rng(0).integers(256, size=(1, size_px, size_px, 3), dtype=np.uint8)
    samples: dict[Key, list[float]] = {key: [] for key in sessions}
    began = perf_counter()
    for number in range(MOST + 1):
        for key, session in sessions.items():
            started = perf_counter()
            session.run(["logits"], {"images": image})
            if number:  # the first is a warm-up
                samples[key].append(1e3 * (perf_counter() - started))
        advance()
        if number >= FEWEST and perf_counter() - began > LIMIT_S:
            break
    medians = {key: median(values) for key, values in samples.items()}
    return Times(medians, {key: min(values) for key, values in samples.items()}, number)
