"""What a benchmark run may be told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.benchmark.rounds import Schedule
from vl2v_deploy.errors import BenchmarkError


def batches_from_text(text: str) -> tuple[int, ...]:
    """Batch sizes written with commas; BenchmarkError unless they are whole numbers.

    >>> batches_from_text("1,8")
    (1, 8)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BenchmarkError(f"batches: expected whole numbers such as 1,8,32, got {text}") from error


@dataclass(frozen=True)
class BenchmarkOptions:
    """Choices of one benchmark run; BenchmarkError for one that makes no sense.

    teacher:            measure the teacher too, accuracy and speed
    usd_per_hour:       price of this machine; None = no cost column
    usd_per_1k_queries: price of the teacher as a paid API; None = the teacher is hosted on this machine
    distillation_usd:   what the distillation cost, for the break-even volume
    utilisation:        share of the paid time in which the machine has images, in (0, 1]
    threads:            threads of every engine; None = physical cores
    batches:            batch sizes
    rounds:             turns in which engines alternate
    samples_per_round:  the most samples of one engine, scope and batch in a round
    seconds:            what the timing should take
    timeout_s:          an engine silent for longer counts as stalled
    data_root:          where the images lie now, in place of the recipe's data.root
    skip_bad:           go on without images that do not decode
    max_images:         the most images of a domain for accuracy; None = all
    """

    teacher: bool = False
    usd_per_hour: float | None = None
    usd_per_1k_queries: float | None = None
    distillation_usd: float | None = None
    utilisation: float = 1.0
    threads: int | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 10
    samples_per_round: int = 100
    seconds: float = 20.0
    timeout_s: float = 120.0
    data_root: Path | None = None
    skip_bad: bool = False
    max_images: int | None = None

    def __post_init__(self) -> None:
        for name in ("usd_per_hour", "usd_per_1k_queries", "distillation_usd"):
            price = getattr(self, name)
            if price is not None and not (math.isfinite(price) and price >= 0):
                raise BenchmarkError(f"{name}: expected a price in US dollars, 0 or more, got {price}")
        if not 0 < self.utilisation <= 1:
            raise BenchmarkError(f"utilisation: expected a share above 0, at most 1, got {self.utilisation}")
        for name in ("threads", "rounds", "samples_per_round", "max_images"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise BenchmarkError(f"{name}: expected 1 or more, got {count}")
        for name in ("seconds", "timeout_s"):
            duration = getattr(self, name)
            if not (math.isfinite(duration) and duration > 0):
                raise BenchmarkError(f"{name}: expected seconds above 0, got {duration}")
        if not self.batches or min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            shown = ", ".join(map(str, self.batches)) or "none"
            raise BenchmarkError(f"batches: expected different sizes of 1 or more, got {shown}")

    @property
    def schedule(self) -> Schedule:
        """The part of the options that the timing is about."""
        return Schedule(self.batches, self.rounds, self.samples_per_round, self.seconds, self.timeout_s)
