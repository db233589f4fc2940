"""Interleaved timing: every engine in every round, so that a machine's drift hits all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vl2v_deploy.benchmark.engines import EngineProcess, EngineSpec
from vl2v_deploy.benchmark.worker import BYTES_TO_LABEL, SCOPES

WARM_UP = 2
# Fewest samples whatever the time: a median needs 20 (see percentile_ms), a mean some.
MIN_FOR_PERCENTILES, MIN_SAMPLES = 20, 3


class Cell(NamedTuple):
    """One thing that is timed: what lies between the clock's two readings, on how many images."""

    scope: str
    batch: int


@dataclass
class Measurement:
    """Raw samples of one engine, in seconds.

    facts:    the worker's own words: load time, provider, threads, versions, peak memory
    warm_up:  the iterations before measuring; the first is the cold start
    rounds:   of each cell, the samples of each round that took some; a slow cell has fewer than rounds
    """

    facts: dict[str, Any]
    warm_up: dict[Cell, list[float]] = field(default_factory=dict)
    rounds: dict[Cell, list[list[float]]] = field(default_factory=dict)

    def guess_s(self, cell: Cell) -> float:
        """What one more iteration will take: as long as the last one of the warm-up."""
        return self.warm_up[cell][-1]

    def samples_s(self, cell: Cell) -> list[float]:
        """All measured samples of a cell, in the order they were taken."""
        return [sample for one_round in self.rounds[cell] for sample in one_round]


@dataclass(frozen=True)
class Schedule:
    """How much is measured.

    batches:           batch sizes; percentiles are wanted at the smallest
    rounds:            in how many turns the samples are taken
    samples_per_round: the most of one cell and engine
    seconds:           what the measuring should take; slow cells still get their fewest samples
    timeout_s:         after which an engine that does not answer counts as stalled
    """

    batches: tuple[int, ...]
    rounds: int
    samples_per_round: int
    seconds: float
    timeout_s: float


def measure_engines(
    specs: Sequence[EngineSpec], schedule: Schedule, advance: Callable[[str], None] = lambda _: None
) -> dict[str, Measurement]:
    """Samples of every engine by name, each in a process of its own, all alive at the same time.

    advance: called with a short text whenever the work moves on

    Raises BenchmarkError when an engine cannot be loaded, dies or stalls. No worker outlives the call.
    """
    cells = [Cell(scope, batch) for scope in SCOPES for batch in schedule.batches]
    with ExitStack() as stack:
        engines = []
        for spec in specs:  # one after the other, so that no load time contains another's
            advance(f"loading {spec.name}")
            engines.append(stack.enter_context(EngineProcess(spec, schedule.timeout_s)))
        results = {engine.name: Measurement(engine.facts) for engine in engines}
        for engine in engines:
            advance(f"warming up {engine.name}")
            for cell in cells:
                results[engine.name].warm_up[cell] = _time(engine, cell, WARM_UP, 0.0, "warming up")
        # The last warm-up iteration is the best guess at one more.
        guess_s = {
            name: {cell: result.warm_up[cell][-1] for cell in cells} for name, result in results.items()
        }
        one_of_each_s = {cell: sum(guess_s[name][cell] for name in guess_s) for cell in cells}
        samples = plan_samples(one_of_each_s, schedule)
        for number in range(schedule.rounds):
            advance(f"round {number + 1} of {schedule.rounds}")
            # Every other round runs backwards: no engine always follows the same one.
            order = engines if number % 2 == 0 else engines[::-1]
            for cell in cells:
                n = share_of_round(samples[cell], number, schedule.rounds)
                for engine in order if n else ():
                    result = results[engine.name]
                    taken = _time(engine, cell, n, n * result.guess_s(cell), f"in round {number + 1}")
                    result.rounds.setdefault(cell, []).append(taken)
    return results


def plan_samples(one_of_each_s: Mapping[Cell, float], schedule: Schedule) -> dict[Cell, int]:
    """How many samples of each cell every engine gives, so that all take about `schedule.seconds`.

    Half the time goes to the cell whose percentiles are reported (encoded image to label, smallest batch);
    the others, whose means are, share the rest. Each engine gives the same number.

    one_of_each_s: seconds that one iteration of a cell takes, summed over the engines

    >>> cells = {Cell("bytes_to_label", 1): 0.1, Cell("tensor_to_logits", 1): 0.05}
    >>> list(plan_samples(cells, Schedule((1,), 10, 100, seconds=20, timeout_s=1)).values())
    [100, 200]
    """
    percentiles_of = Cell(BYTES_TO_LABEL, min(schedule.batches))
    others = max(1, len(one_of_each_s) - 1)
    most = schedule.rounds * schedule.samples_per_round
    planned = {}
    for cell, cost_s in one_of_each_s.items():
        fewest, budget_s = MIN_SAMPLES, schedule.seconds / 2 / others
        if cell == percentiles_of:
            fewest, budget_s = MIN_FOR_PERCENTILES, schedule.seconds / 2
        affordable = int(budget_s / cost_s) if cost_s > 0 else most
        planned[cell] = min(most, max(fewest, affordable))
    return planned


def share_of_round(samples: int, number: int, rounds: int) -> int:
    """How many of a cell's samples round `number` (from 0) takes: spread evenly over all rounds.

    >>> [share_of_round(3, number, rounds=5) for number in range(5)]
    [0, 1, 0, 1, 1]
    """
    return samples * (number + 1) // rounds - samples * number // rounds


def _time(engine: EngineProcess, cell: Cell, n: int, expected_s: float, doing: str) -> list[float]:
    request = {"scope": cell.scope, "batch": cell.batch, "n": n}
    doing = f"{doing} ({cell.scope}, batch {cell.batch})"
    reply = engine.ask(request, doing, expected_s)
    engine.facts["peak_rss_bytes"] = reply["peak_rss_bytes"]
    samples: list[float] = reply["samples_s"]
    return samples
