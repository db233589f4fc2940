"""Interleaved timing: every engine in every round, so that the machine's drift affects all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import Scope, TimingCell
from vl2v_deploy.benchmarking.worker.process import BYTES_TO_LABEL
from vl2v_deploy.benchmarking.worker.timing import LAST
from vl2v_deploy.errors import BenchmarkError

# Fewest samples whatever the time: a median needs 20 (ten beyond it), a mean some.
MIN_FOR_PERCENTILES, MIN_SAMPLES = 20, 3
WARM_UP_SHARE = 0.5  # of the seconds of timing, on top of them


class Key(NamedTuple):
    """One thing that is timed: scope, images per call, calls in flight at once."""

    scope: Scope
    batch: int
    streams: int = 1


@dataclass
class Timed:
    """What was measured of one engine, as far as it got.

    facts:   as the worker reported them: load time, provider, threads, versions, peak memory
    cells:   filled in round by round
    failure: why it is not complete; None when it is
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    cells: dict[Key, TimingCell] = field(default_factory=dict)
    failure: str | None = None

    def measured(self) -> list[TimingCell]:
        """The cells that have samples."""
        return [cell for cell in self.cells.values() if cell.rounds_s]


class TimedEngines(NamedTuple):
    """What was measured of every engine by name, and the processes of those that did not fail."""

    results: dict[str, Timed]
    alive: dict[str, EngineProcess]


@contextmanager
def timed_engines(
    specs: Sequence[EngineSpec],
    scenario: Scenario,
    advance: Callable[[str], None] = lambda _: None,
    first: Callable[[EngineProcess], None] = lambda _: None,
) -> Iterator[TimedEngines]:
    """Samples of every engine, each in a process of its own, all alive until the context is left.

    advance: called with a short text whenever the work moves on, 2 x engines + rounds times
    first:   called with each loaded engine before it is timed, to ask it something else

    An engine that cannot be loaded, dies, stalls or raises an error has a `failure`, and what was measured
    before it; the others go on. No worker outlives the context.
    """
    results = {spec.name: Timed(spec.name) for spec in specs}
    with ExitStack() as stack:
        engines: list[EngineProcess] = []
        for spec in specs:  # one after the other, so that no load time contains another's
            advance(f"loading {spec.name}")
            engine = EngineProcess(spec, scenario.timeout_s)
            with noting(results[spec.name]):
                results[spec.name].facts = stack.enter_context(engine).facts
                first(engine)
                engines.append(engine)
        engines = _warmed_up(engines, results, scenario, advance)
        plans = {
            engine.name: plan_samples(_costs_s(results[engine.name]), scenario, len(engines))
            for engine in engines
        }
        for number in range(scenario.rounds):
            advance(f"round {number + 1} of {scenario.rounds}")
            _one_round(number, engines, results, plans, scenario)
        yield TimedEngines(results, {one.name: one for one in engines if not results[one.name].failure})


@contextmanager
def noting(result: Timed) -> Iterator[None]:
    """A BenchmarkError inside becomes the engine's `failure`; the code after the block goes on."""
    try:
        yield
    except BenchmarkError as error:
        result.failure = str(error)


def plan_samples(cost_s: Mapping[Key, float], scenario: Scenario, engines: int) -> dict[Key, int]:
    """How many samples to take of each cell of one engine, so that all take about `scenario.seconds`.

    Each engine gets the same time. Half of it goes to the cell whose percentiles are reported (encoded image
    to label, smallest batch, one stream); the others, whose means are reported, share the rest. The first
    call of a round, which is not counted, takes time too.

    cost_s: seconds that one more iteration of a cell takes

    >>> cells = {Key("bytes_to_label", 1): 0.1, Key("tensor_to_logits", 1): 0.05}
    >>> list(plan_samples(cells, Scenario(batches=(1,), seconds=20), engines=1).values())
    [90, 190]
    """
    main = Key("bytes_to_label", min(scenario.batches))
    others = len(cost_s) - 1
    planned = {}
    for key, one_s in cost_s.items():
        fewest, budget_s = MIN_SAMPLES, scenario.seconds / engines
        if key == main:
            fewest = MIN_FOR_PERCENTILES
        if others:
            budget_s /= 2 if key == main else 2 * others
        calls = budget_s / max(one_s, 1e-7)
        # One uncounted call a round; where there are fewer samples than rounds, one with each of them.
        affordable = max(calls - scenario.rounds, calls / 2)
        most = scenario.rounds * scenario.samples_per_round
        planned[key] = min(most, max(fewest, int(affordable)))
    return planned


def share_of_round(samples: int, number: int, rounds: int) -> int:
    """How many of a cell's samples round `number` (from 0) takes: spread evenly over all rounds.

    >>> [share_of_round(3, number, rounds=5) for number in range(5)]
    [0, 1, 0, 1, 1]
    """
    return samples * (number + 1) // rounds - samples * number // rounds


def keys_of(facts: Mapping[str, Any], scenario: Scenario) -> list[Key]:
    """What is timed of an engine: its scopes at every batch size it takes; several streams for throughput."""
    most = facts.get("most_images")
    keys = []
    for batch in scenario.batches:
        if most is not None and batch > most:
            continue
        for scope in facts["scopes"]:
            streams = sorted({1, *scenario.streams}) if scope == BYTES_TO_LABEL else [1]
            keys += [Key(scope, batch, count) for count in streams]
    return keys


def _warmed_up(
    engines: Sequence[EngineProcess],
    results: Mapping[str, Timed],
    scenario: Scenario,
    advance: Callable[[str], None],
) -> list[EngineProcess]:
    """The engines that did not fail; all cells of one are warmed up before the next engine begins.

    Time that a cell leaves, because it was steady early, goes to the later cells.
    """
    for engine in engines:
        advance(f"warming up {engine.name}")
        result = results[engine.name]
        left_s = WARM_UP_SHARE * scenario.seconds / len(engines)
        keys = keys_of(engine.facts, scenario)
        with noting(result):
            if not keys:
                asked = ", ".join(map(str, scenario.batches))
                raise BenchmarkError(
                    f"{engine.name}: takes at most {engine.facts['most_images']} images at once, but the "
                    f"batches to be timed are {asked}; name a smaller one with --batch"
                )
            for number, key in enumerate(keys):
                limit_s = max(0.0, left_s) / (len(keys) - number)
                request = {"do": "warm_up", **key._asdict(), "limit_s": limit_s}
                reply = engine.ask(request, f"warming up ({_words(key)})", limit_s)
                result.cells[key] = TimingCell(
                    **key._asdict(),
                    threads=int(engine.facts["threads"]),
                    warm_up_s=reply["samples_s"],
                    steady=reply["steady"],
                    rounds_s=[],
                    wall_s=[],
                )
                left_s -= sum(reply["samples_s"])
                engine.remember(reply)
    return [engine for engine in engines if results[engine.name].failure is None]


def _costs_s(result: Timed) -> dict[Key, float]:
    """Seconds that one more sample takes: the median of the last warm-up calls, divided by the streams."""
    return {key: median(cell.warm_up_s[-LAST:]) / key.streams for key, cell in result.cells.items()}


def _one_round(
    number: int,
    engines: Sequence[EngineProcess],
    results: Mapping[str, Timed],
    plans: Mapping[str, Mapping[Key, int]],
    scenario: Scenario,
) -> None:
    # Every other round runs backwards: no engine always follows the same one.
    order = engines if number % 2 == 0 else engines[::-1]
    for key in dict.fromkeys(key for plan in plans.values() for key in plan):
        for engine in order:
            result = results[engine.name]
            n = share_of_round(plans[engine.name].get(key, 0), number, scenario.rounds)
            if n == 0 or result.failure:
                continue
            with noting(result):
                request = {"do": "time", **key._asdict(), "n": n}
                expected_s = (n + 1) * key.streams * _costs_s(result)[key]
                reply = engine.ask(request, f"in round {number + 1} ({_words(key)})", expected_s)
                result.cells[key].rounds_s.append(reply["samples_s"])
                result.cells[key].wall_s.append(reply["wall_s"])
                engine.remember(reply)


def _words(key: Key) -> str:
    streams = f", {key.streams} streams" if key.streams > 1 else ""
    return f"{key.scope}, batch {key.batch}{streams}"
