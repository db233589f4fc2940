"""MLPerf-style runs: queues are counted, rates are searched, the best setting is used."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.helpers.fake_engine import fake
from vl2v_deploy.benchmarking.measure import load_runs
from vl2v_deploy.benchmarking.measure.energy import Meter
from vl2v_deploy.benchmarking.measure.load_runs import (
    expected_s,
    is_held,
    planned_arrivals,
    run_loads,
    search_rates,
)
from vl2v_deploy.benchmarking.measure.subject import Subject
from vl2v_deploy.benchmarking.scenario import Offline, Scenario, Server, SingleStream
from vl2v_deploy.benchmarking.schema import EngineMeasurement, ServerTrial, TimingCell
from vl2v_deploy.benchmarking.worker.timing import Arrivals, Pool, arrival_times_s, serve_arrivals

__all__ = ["fake"]  # the fixture


def asked(rate_per_s: float, arrivals: int, **changes: Any) -> Arrivals:
    values = {"seed": 0, "streams": 1, "limit_s": 60.0, "bound_s": 60.0, "may_be_late": arrivals}
    return Arrivals(rate_per_s, arrivals, **{**values, **changes})


def serve(service_s: float, *args: Any, **changes: Any) -> list[float]:
    return serve_arrivals(Pool(), lambda *_: time.sleep(service_s), asked(*args, **changes))


def test_arrivals_have_the_stated_rate_and_no_memory() -> None:
    times = arrival_times_s(250.0, 20_000, seed=3)
    gaps = np.diff(times, prepend=0.0)
    assert times[-1] == pytest.approx(20_000 / 250.0, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential gaps, not regular ones
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03
    assert np.array_equal(times, arrival_times_s(250.0, 20_000, seed=3))
    assert not np.array_equal(times, arrival_times_s(250.0, 20_000, seed=4))


def test_an_engine_slower_than_the_arrivals_shows_a_growing_queue() -> None:
    # 10 ms of work every 5 ms: image i waits for all before it, whoever measures only the work sees 10 ms
    served = serve(0.010, 200.0, 100)
    latencies = np.array(served)
    planned = arrival_times_s(200.0, 100, seed=0)
    # The queue's own law (Lindley): an image starts when it is there and the one before is done.
    expected, free = [], 0.0
    for arrival in planned:
        free = max(arrival, free) + 0.010
        expected.append(free - arrival)
    assert len(latencies) == 100
    assert (latencies >= np.array(expected) - 1e-3).all()
    assert latencies[-10:].mean() > 0.3 > 10 * latencies[0]


def test_latency_counts_from_the_planned_arrival_not_from_when_it_was_taken_up() -> None:
    slow_once = iter([0.2] + [0.0] * 50)
    served = serve_arrivals(Pool(), lambda *_: time.sleep(next(slow_once)), asked(200.0, 40))
    waited = sum(latency > 0.05 for latency in served)
    planned = arrival_times_s(200.0, 40, seed=0)
    came_meanwhile = int((planned - planned[0] < 0.15).sum())
    assert waited >= came_meanwhile > 10  # a stall is paid for by all who came during it, not by one


def test_a_queue_that_is_not_worked_off_is_told_and_ends_in_time() -> None:
    start = time.perf_counter()
    served = serve(0.05, 100.0, 100, limit_s=0.5)
    assert time.perf_counter() - start < 5.0
    assert len(served) < 20


def test_a_rate_that_is_lost_is_given_up() -> None:
    served = serve(0.05, 100.0, 1000, bound_s=0.06, may_be_late=10)
    assert 10 < len(served) < 100


def test_several_streams_serve_at_once() -> None:
    served = serve(0.02, 100.0, 60, streams=4)
    alone = serve(0.02, 100.0, 60)
    assert np.mean(served) < 0.5 * np.mean(alone)


def test_the_search_brackets_the_highest_rate_that_is_held() -> None:
    capacity, server = 137.0, Server(latency_bound_ms=100, percentile=90, rates=9)

    def outcome(rate: float) -> ServerTrial:
        return ServerTrial(rate_per_s=rate, samples_s=[0.05 if rate <= capacity else 0.2] * 100, dropped=0)

    for first in (20.0, 100.0, 900.0):
        rates = [t.rate_per_s for t in search_rates(first, 12, outcome, lambda t: is_held(t, server))]
        assert len(rates) == 12
        assert max(rate for rate in rates if rate <= capacity) == pytest.approx(capacity, rel=0.05)
        assert min(rate for rate in rates if rate > capacity) == pytest.approx(capacity, rel=0.05)


@pytest.mark.parametrize(
    ("late", "dropped", "held"), [(0, 0, True), (10, 0, True), (11, 0, False), (0, 1, False)]
)
def test_a_rate_is_held_when_no_more_are_late_than_the_percentile_allows(
    late: int, dropped: int, held: bool
) -> None:
    samples = [0.2] * late + [0.05] * (1000 - late)
    tried = ServerTrial(rate_per_s=1.0, samples_s=samples, dropped=dropped)
    assert is_held(tried, Server(latency_bound_ms=100, percentile=99)) is held


def test_a_trial_lasts_until_the_percentile_can_be_told_but_not_for_ever() -> None:
    server = Server(percentile=99, seconds=2.0)
    assert planned_arrivals(5000.0, server) == 10_000  # the asked two seconds
    assert planned_arrivals(100.0, server) == 1000  # ten seconds: ten samples beyond p99
    assert planned_arrivals(1.0, server) == 24  # twelve times as long as asked, no more


def cell(batch: int, threads: int, streams: int, images_per_s: float) -> TimingCell:
    seconds = batch / images_per_s
    times = {"rounds_s": [[seconds * streams] * 4], "wall_s": [4 * seconds]}
    common = {"scope": "bytes_to_label", "warm_up_s": [seconds], "steady": True}
    return TimingCell.model_validate(
        {**common, **times, "batch": batch, "threads": threads, "streams": streams}
    )


def subject_of(*cells: TimingCell) -> Subject:
    found = EngineMeasurement(
        name="fake", kind="student", runtime="fake", precision="fp32", status="measured", cells=list(cells)
    )
    return Subject("cpu", {}, None, found)


def test_each_run_takes_the_setting_that_was_best_and_one_process_a_number_of_threads(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = fake(classify_s=0.002)
    subject = subject_of(
        cell(1, 1, 1, 400.0), cell(1, 2, 1, 300.0), cell(1, 2, 2, 500.0), cell(4, 2, 1, 450.0)
    )
    monkeypatch.setattr(subject, "spec", lambda threads, _: fake("fake", threads=threads, classify_s=0.002))
    started: list[int] = []
    whole = load_runs.EngineProcess

    def counted(spec: Any, timeout_s: float) -> Any:
        started.append(spec.settings["threads"])
        return whole(spec, timeout_s)

    monkeypatch.setattr(load_runs, "EngineProcess", counted)
    joules = iter([2.0, 6.0])
    meter = Meter("rapl", lambda: lambda: next(joules))
    monkeypatch.setattr(load_runs, "open_meter", lambda device: (meter, None))
    monkeypatch.setattr(load_runs, "IDLE_S", 0.1)
    scenario = Scenario(
        batches=(1, 4),
        single_stream=SingleStream(queries=30),
        offline=Offline(seconds=0.2),
        server=Server(seconds=0.2, rates=2, percentile=50),
        energy=True,
    )
    said: list[str] = []
    run_loads(subject, scenario, spec.settings["images"], said.append)
    assert sorted(started) == [1, 2]
    assert subject.found.single_stream is not None and subject.found.single_stream.threads == 1
    assert (
        len(subject.found.single_stream.samples_s) == 30
        and min(subject.found.single_stream.samples_s) >= 0.002
    )
    offline = subject.found.offline
    assert offline is not None and (offline.threads, offline.batch, offline.streams) == (2, 1, 2)
    assert 0.1 <= offline.wall_s < 2.0 and offline.images <= 2 * offline.wall_s / 0.002 + 2
    energy = subject.found.energy
    assert energy is not None and (energy.meter, energy.joules, energy.images) == (
        "rapl",
        6.0,
        offline.images,
    )
    assert energy.idle_watts == pytest.approx(20.0, rel=0.5)
    assert subject.found.server is not None and subject.found.server.threads == 2
    assert subject.found.server.trials[0].rate_per_s == pytest.approx(0.7 * 500.0)
    assert {p.threads for p in subject.found.processes} == {1, 2} and any(
        "server, 350" in words for words in said
    )


def test_what_loads_are_expected_to_take_is_what_they_were_asked_for() -> None:
    subject = subject_of(cell(1, 1, 1, 100.0))
    subject.remember({"threads": 1, "load_s": 1.5, "provider": "fake", "versions": {}})
    asked = Scenario(
        batches=(1,), single_stream=SingleStream(seconds=3), offline=Offline(seconds=2), server=None
    )
    assert expected_s(subject, asked) == pytest.approx(1.5 + 3 + 2)
    # p99 needs a thousand arrivals, at 0.7 of 100 images per second
    server = Server(seconds=2, rates=3, percentile=99)
    assert expected_s(subject, Scenario(batches=(1,), server=server)) == pytest.approx(
        1.5 + 3 * 1000 / 70, rel=0.01
    )


def test_energy_without_a_meter_says_why(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(cell(1, 1, 1, 400.0))
    monkeypatch.setattr(subject, "spec", lambda threads, _: fake("fake"))
    monkeypatch.setattr(load_runs, "open_meter", lambda device: (None, f"no meter of the {device} here"))
    monkeypatch.setattr(load_runs, "Offline", lambda: Offline(seconds=0.1))
    run_loads(subject, Scenario(energy=True, batches=(1,)), [], lambda _: None)
    assert subject.found.offline is None  # was not asked for; the stretch is there for the energy
    assert subject.found.energy is not None
    assert (subject.found.energy.joules, subject.found.energy.reason) == (None, "no meter of the cpu here")


def test_a_process_that_is_loaded_is_used_and_not_ended(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(cell(1, 2, 1, 400.0))
    monkeypatch.setattr(subject, "spec", lambda *_: pytest.fail("was loaded again"))
    scenario = Scenario(batches=(1,), single_stream=SingleStream(queries=20), offline=Offline(seconds=0.1))
    with load_runs.EngineProcess(fake("fake", threads=2, classify_s=0.001), 20.0) as loaded:
        run_loads(subject, scenario, [], lambda _: None, loaded)
        assert subject.found.single_stream is not None and subject.found.offline is not None
        assert loaded.ask({"do": "single_stream", "queries": 1, "seconds": 1}, "answering")["samples_s"]
    subject.remember({"threads": 2, "load_s": 1.5, "provider": "fake", "versions": {}})
    asked = Scenario(batches=(1,), single_stream=SingleStream(seconds=3))
    assert expected_s(subject, asked, loaded=True) == pytest.approx(3.0)
