"""MLPerf-style (not MLPerf) runs of one engine at its best setting, while no other engine computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from math import ceil

from vl2v_deploy.benchmarking.judge.speed import best_cell, cell_images_per_s, latency_cell
from vl2v_deploy.benchmarking.measure.energy import Meter, open_meter
from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.measure.subject import Subject
from vl2v_deploy.benchmarking.scenario import Offline, Scenario, Server, SingleStream
from vl2v_deploy.benchmarking.schema import (
    Energy,
    OfflineRun,
    ServerRun,
    ServerTrial,
    SingleStreamRun,
    TimingCell,
)
from vl2v_deploy.benchmarking.worker.timing import Arrivals

# The first rate is this share of the throughput of single images, at which queues are still short.
FIRST_RATE, HIGHER = 0.7, 1.3
# A slow engine would need many minutes for a p99: a trial may take this many times what was asked for.
MOST_TIMES_LONGER = 12
IDLE_S = 2.0


def run_loads(
    subject: Subject,
    scenario: Scenario,
    images: Sequence[str],
    say: Callable[[str], None],
    loaded: EngineProcess | None = None,
) -> None:
    """Each run that the scenario asks for, at the setting that timing found best; results go into `subject`.

    images: those it is timed on
    say:    called with a few words on what is being done
    loaded: a process of the engine, used where its number of threads is the one wanted; None = none is there

    Raises what `EngineProcess` raises; the results of earlier runs stay.
    """
    offline, found = scenario.offline or (Offline() if scenario.energy else None), subject.found
    singles = [cell for cell in found.cells if cell.batch == min(scenario.batches)]
    with ExitStack() as stack:
        processes = {int(loaded.facts["threads"]): loaded} if loaded else {}

        def process(threads: int) -> EngineProcess:
            if threads not in processes:
                say(f"{subject.name}: loading")
                spec = subject.spec(threads, images)
                processes[threads] = stack.enter_context(EngineProcess(spec, scenario.timeout_s))
            return processes[threads]

        if scenario.single_stream:
            threads = latency_cell(found.cells).threads
            say(f"{subject.name}: single stream")
            found.single_stream = run_single_stream(process(threads), scenario.single_stream, threads)
        if offline:
            best = best_cell(found.cells)
            engine = process(best.threads)
            say(f"{subject.name}: offline")
            meter, reason = open_meter(subject.device) if scenario.energy else (None, None)
            run, energy = run_offline(engine, offline, best, meter, reason)
            found.offline = run if scenario.offline else None
            found.energy = energy if scenario.energy else None
        if scenario.server:
            best = best_cell(singles)
            engine = process(best.threads)
            found.server = run_server(
                engine, scenario.server, best, lambda rate: say(f"{subject.name}: server, {rate}")
            )
        for engine in processes.values():
            subject.remember(engine.facts)


def expected_s(subject: Subject, scenario: Scenario, *, loaded: bool = False) -> float:
    """About how long `run_loads` will take: the engine loaded again, then what each run was asked to take.

    loaded: whether it need not be loaded again
    """
    asked = 0.0 if loaded else sum(process.load_s for process in subject.found.processes)
    if scenario.single_stream:
        asked += scenario.single_stream.seconds
    if scenario.offline or scenario.energy:
        asked += (scenario.offline or Offline()).seconds
    if scenario.server:
        singles = [cell for cell in subject.found.cells if cell.batch == min(scenario.batches)]
        rate = FIRST_RATE * cell_images_per_s(best_cell(singles))
        asked += scenario.server.rates * planned_arrivals(rate, scenario.server) / rate
    return asked


def run_single_stream(engine: EngineProcess, asked: SingleStream, threads: int) -> SingleStreamRun:
    """Latencies of single images, one after the other."""
    request = {"do": "single_stream", "queries": asked.queries, "seconds": asked.seconds}
    reply = engine.ask(request, "answering one image after the other", asked.seconds)
    engine.remember(reply)
    return SingleStreamRun(threads=threads, samples_s=reply["samples_s"])


def run_offline(
    engine: EngineProcess, asked: Offline, best: TimingCell, meter: Meter | None, no_meter: str | None
) -> tuple[OfflineRun, Energy]:
    """All images available at once at the setting of the engine's best cell, and the energy that it took.

    meter: None = none could be read, for the reason `no_meter`
    """
    idle_watts = meter.idle_watts(IDLE_S) if meter else None
    since = meter.start() if meter else None
    request = {"do": "offline", "batch": best.batch, "streams": best.streams, "seconds": asked.seconds}
    reply = engine.ask(request, "labelling as many images as it can", asked.seconds)
    joules = since() if since else None
    engine.remember(reply)
    done = {"images": reply["images"], "wall_s": reply["wall_s"]}
    offline = OfflineRun(threads=best.threads, batch=best.batch, streams=best.streams, **done)
    kind = meter.kind if meter else None
    return offline, Energy(meter=kind, reason=no_meter, joules=joules, idle_watts=idle_watts, **done)


def run_server(
    engine: EngineProcess, asked: Server, best: TimingCell, advance: Callable[[str], None]
) -> ServerRun:
    """Poisson arrivals of single images at several rates, to find the highest that stays in the bound.

    best: the engine's best cell of single images; its throughput is where the search begins
    """

    def trial(rate_per_s: float) -> ServerTrial:
        advance(f"{rate_per_s:.3g} images per second")
        return _one_rate(engine, asked, rate_per_s, best.streams)

    trials = search_rates(
        FIRST_RATE * cell_images_per_s(best), asked.rates, trial, lambda t: is_held(t, asked)
    )
    return ServerRun(threads=best.threads, trials=trials)


def search_rates(
    first: float, tries: int, trial: Callable[[float], ServerTrial], held: Callable[[ServerTrial], bool]
) -> list[ServerTrial]:
    """The trials of a search for the highest rate that is held: brackets it, then halves the bracket."""
    trials: list[ServerTrial] = []
    low, high, rate = 0.0, float("inf"), first
    for _ in range(tries):
        trials.append(trial(rate))
        if held(trials[-1]):
            low = rate
        else:
            high = rate
        rate = low * HIGHER if high == float("inf") else (low + high) / 2
    return trials


def is_held(trial: ServerTrial, asked: Server) -> bool:
    """Whether all were answered, and no more of them late than the percentile allows."""
    return not trial.dropped and _late(trial.samples_s, asked) <= may_be_late(len(trial.samples_s), asked)


def may_be_late(arrivals: int, asked: Server) -> int:
    """How many answers may be over the bound.

    >>> may_be_late(1000, Server(percentile=99))
    10
    """
    return arrivals * (100 - asked.percentile) // 100


def planned_arrivals(rate_per_s: float, asked: Server) -> int:
    """Arrivals for the asked seconds, or as many as the percentile needs (ten beyond it), within reason.

    >>> planned_arrivals(1000.0, Server(seconds=5)), planned_arrivals(50.0, Server(seconds=5))
    (5000, 1000)
    """
    needed = 1000 // (100 - asked.percentile)
    seconds = min(max(asked.seconds, needed / rate_per_s), MOST_TIMES_LONGER * asked.seconds)
    return max(1, ceil(rate_per_s * seconds))


def _one_rate(engine: EngineProcess, asked: Server, rate_per_s: float, streams: int) -> ServerTrial:
    arrivals, bound_s = planned_arrivals(rate_per_s, asked), asked.latency_bound_ms / 1e3
    request = Arrivals(
        rate_per_s=rate_per_s,
        arrivals=arrivals,
        seed=asked.seed,
        streams=streams,
        # The queue may take as long again as the arrivals did.
        limit_s=2 * arrivals / rate_per_s + bound_s,
        bound_s=bound_s,
        may_be_late=may_be_late(arrivals, asked),
    )
    doing = f"serving {rate_per_s:.3g} images per second"
    reply = engine.ask({"do": "server", **asdict(request)}, doing, request.limit_s)
    engine.remember(reply)
    return ServerTrial(rate_per_s=rate_per_s, samples_s=reply["samples_s"], dropped=reply["dropped"])


def _late(samples_s: Sequence[float], asked: Server) -> int:
    return sum(1e3 * sample > asked.latency_bound_ms for sample in samples_s)
