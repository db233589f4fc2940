"""The harness itself: what it reports of engines whose speed, answers and failures are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_engine import fake
from tests.helpers.running import wait_for_end
from vl2v_deploy.benchmarking.measure.answers import predict_images
from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec
from vl2v_deploy.benchmarking.measure.rounds import (
    Key,
    Timed,
    keys_of,
    plan_samples,
    share_of_round,
    timed_engines,
)
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.worker.timing import Pool, is_steady, keep_busy, time_calls, warm_up
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import BenchmarkError

__all__ = ["fake"]  # the fixture
WHOLE, TENSOR, SESSION = "bytes_to_label", "tensor_to_logits", "session"


def scenario(**changes: Any) -> Scenario:
    values: dict[str, Any] = {"batches": (1, 3), "streams": (1,), "rounds": 3, "samples_per_round": 4}
    return Scenario(**{**values, "seconds": 0.6, "timeout_s": 20.0, **changes})


def measure_engines(*specs: Any, **options: Any) -> dict[str, Timed]:
    """What is measured of engines whose processes are not wanted afterwards."""
    with timed_engines(*specs, **options) as timed:
        return timed.results


def samples_s(timed: Timed, key: Key) -> list[float]:
    return [sample for one_round in timed.cells[key].rounds_s for sample in one_round]


def failure(spec: EngineSpec, **changes: Any) -> str:
    """Why an engine failed, after a sound one beside it was measured all the same."""
    times = dict.fromkeys(("classify_s", "logits_s", "session_s"), 0.001)
    results = measure_engines([spec, sound(spec, **times)], scenario(**changes))
    assert results["sound"].failure is None
    assert set(results["sound"].cells) == set(keys_of(results["sound"].facts, scenario(**changes)))
    told = results[spec.name].failure
    assert told is not None
    assert "\n" not in told
    return told


def sound(like: EngineSpec, **settings: Any) -> EngineSpec:
    kept = {key: value for key, value in like.settings.items() if key != "behaviour"}
    return EngineSpec("sound", {**kept, **settings}, fake_command(like))


def fake_command(spec: EngineSpec) -> tuple[str, ...]:
    return (sys.executable, str(Path(spec.settings["images"][0]).parent / "fake_worker.py"))


def test_known_sleeps_are_accounted_to_the_right_engine_scope_and_batch(fake: Any) -> None:
    slow = {"classify_s": 0.03, "logits_s": 0.012, "session_s": 0.006}
    results = measure_engines([fake("quick", load_s=0.1), fake("slow", load_s=1.0, **slow)], scenario())
    expected_ms = {
        ("quick", WHOLE): 4,
        ("quick", TENSOR): 2,
        ("quick", SESSION): 1,
        ("slow", WHOLE): 30,
        ("slow", TENSOR): 12,
        ("slow", SESSION): 6,
    }
    for (name, scope), per_image_ms in expected_ms.items():
        for batch in (1, 3):
            key = Key(scope, batch)
            taken = samples_s(results[name], key)
            assert len(taken) >= 3
            # sleep never returns early: a sample below is a wrong account. Above, the machine may be busy.
            assert min(taken) * 1e3 >= per_image_ms * batch
            assert min(taken) * 1e3 <= per_image_ms * batch + 25
            assert len(results[name].cells[key].warm_up_s) >= 2
            cell = results[name].cells[key]
            for one_round, wall_s in zip(cell.rounds_s, cell.wall_s, strict=True):
                assert sum(one_round) <= wall_s <= sum(one_round) + 0.1
    assert 0.1 <= results["quick"].facts["load_s"] < 1.0 <= results["slow"].facts["load_s"]
    cell = results["slow"].cells[Key(WHOLE, 3)]
    assert (cell.scope, cell.batch, cell.threads, cell.streams) == (WHOLE, 3, 1, 1)


def test_known_memory_is_reported(fake: Any) -> None:
    ballast = 400_000_000
    results = measure_engines(
        [fake("light"), fake("heavy", ballast_bytes=ballast)], scenario(batches=(1,), rounds=1)
    )
    more = results["heavy"].facts["peak_rss_bytes"] - results["light"].facts["peak_rss_bytes"]
    # The first process of a fresh tree also compiles modules, which costs some ten megabytes.
    assert ballast * 0.9 <= more <= ballast * 1.2


def test_known_errors_are_found_image_by_image(fake: Any, tmp_path: Path) -> None:
    samples = [Sample(tmp_path / f"{i}.img", "sketch", 0, str(i), "test", "") for i in range(4)]
    done: list[int] = []
    with EngineProcess(fake(wrong=[1, 3]), 20.0) as engine:
        told = predict_images(engine, {"sketch": samples, "photo": samples[:1]}, done.append)
    assert told["sketch"].labels == [0, 1, 0, 1] and told["photo"].labels == [0]
    assert told["sketch"].confidence == [0.75] * 4 and sum(done) == 5


def test_answers_that_are_missing_are_no_answers(fake: Any, tmp_path: Path) -> None:
    samples = [Sample(tmp_path / f"{i}.img", "sketch", 0, str(i), "test", "") for i in range(4)]
    with (
        pytest.raises(BenchmarkError, match="gave 3 answers to 4 images"),
        EngineProcess(fake(behaviour="forget"), 20.0) as engine,
    ):
        predict_images(engine, {"sketch": samples}, lambda _: None)


def test_an_engine_with_a_largest_batch_is_never_asked_for_more(fake: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = fake("small", log=str(log), facts={"most_images": 3})
    samples = [Sample(tmp_path / f"{i}.img", "sketch", 0, str(i), "test", "") for i in range(4)]
    with EngineProcess(spec, 20.0) as engine:
        assert len(predict_images(engine, {"sketch": samples}, lambda _: None)["sketch"].labels) == 4
    result = measure_engines([spec], scenario(batches=(1, 3, 4)))["small"]
    assert {key.batch for key in result.cells} == {1, 3}
    assert max(line.count(",") + 1 for line in log.read_text().splitlines()) == 3


def test_an_engine_too_small_for_every_batch_says_so_and_the_others_are_measured(fake: Any) -> None:
    specs = [fake("small", facts={"most_images": 1}), fake("large")]
    timed = measure_engines(specs, scenario(batches=(2, 4)))
    assert "small: takes at most 1 images at once, but the batches to be timed are 2, 4" in str(
        timed["small"].failure
    )
    assert timed["large"].failure is None and timed["large"].measured()


def test_engines_go_around_the_same_images_in_the_same_order(fake: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    specs = [fake("a", log=str(log)), fake("b", log=str(log), classify_s=0.02)]
    measure_engines(specs, scenario(batches=(1,)))
    seen: dict[str, list[str]] = {"a": [], "b": []}
    for line in log.read_text().splitlines():
        name, scope, images = line.split(" ", 2)
        if scope == WHOLE:
            seen[name].append(images)
    for images in seen.values():  # how many differs: each engine has as much time
        assert len(images) >= 5
        assert images == [f"[{number % 4}]" for number in range(len(images))]


def test_engines_take_turns_and_change_places_every_round(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    ask = EngineProcess.ask

    def recording(self: EngineProcess, request: Any, doing: str, expected_s: float = 0.0) -> Any:
        asked.append((doing.split(" (")[0], self.name))
        return ask(self, request, doing, expected_s)

    monkeypatch.setattr(EngineProcess, "ask", recording)
    measure_engines([fake("a"), fake("b")], scenario(batches=(1,), rounds=2))
    turns = ["".join(name for doing, name in asked if doing == f"in round {number}") for number in (1, 2)]
    assert turns == ["ababab", "bababa"]


def test_a_stalled_engine_hits_the_time_limit_and_the_others_are_measured(fake: Any) -> None:
    start = time.perf_counter()
    assert "'fake' stalled while" in (told := failure(fake(behaviour="stall"), timeout_s=10.0))
    assert "no answer in" in told and "Godot" in told
    assert time.perf_counter() - start < 80


def test_an_engine_that_stalls_while_loading_is_reported(fake: Any) -> None:
    assert "stalled while loading" in failure(fake(behaviour="stall_on_load"), timeout_s=8.0)


def test_a_dying_engine_is_reported_with_its_last_words(fake: Any) -> None:
    told = failure(fake(behaviour="die"))
    assert "'fake' died while" in told and "exit status 7; " in told and "the fuse blew" in told


def test_an_error_of_the_users_making_comes_through_as_it_is(fake: Any) -> None:
    assert failure(fake(behaviour="refuse")) == "engine 'fake': no such provider here"


def test_what_was_measured_before_a_failure_stays(fake: Any) -> None:
    spec = fake(behaviour="err", after=0)
    # More calls than warm-up makes at most, fewer than all rounds: it fails in the rounds.
    late = EngineSpec(spec.name, {**spec.settings, "after": 3 * 100 + 40}, spec.command)
    times = dict.fromkeys(("classify_s", "logits_s", "session_s"), 0.0002)
    late = EngineSpec(late.name, {**late.settings, **times}, late.command)
    result = measure_engines([late], scenario(batches=(1,), rounds=10, samples_per_round=100, seconds=30.0))[
        "fake"
    ]
    assert result.failure == "engine 'fake': the device was lost"
    cells = result.measured()
    assert cells and all(sample > 0 for cell in cells for one in cell.rounds_s for sample in one)
    assert sum(len(cell.rounds_s) for cell in cells) < 3 * 10


def test_a_worker_that_is_no_worker_is_reported(fake: Any) -> None:
    spec = EngineSpec("cat", fake().settings, (sys.executable, "-c", "print('hello')"))
    told = failure(spec)
    assert "'cat' answered" in told and "hello" in told and "expected one line of JSON" in told


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_worker_outlives_an_interruption(fake: Any, error: type[BaseException]) -> None:
    engines: list[EngineProcess] = []

    def interrupt(engine: EngineProcess) -> None:
        engines.append(engine)
        if len(engines) == 2:
            raise error

    with pytest.raises(error):
        measure_engines([fake("a"), fake("b")], scenario(), first=interrupt)
    assert [engine._process.returncode is not None for engine in engines] == [True, True]


def test_a_worker_leaves_when_its_parent_is_gone(fake: Any) -> None:
    spec = fake()
    settings = json.dumps(spec.settings) + "\n"
    done = subprocess.run(
        spec.command,
        input=settings,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1  # the ready reply; the library's noise went to stderr
    assert "noise" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("linux", [True, False])
def test_a_kill_of_the_parent_ends_a_worker_that_is_busy(fake: Any, tmp_path: Path, linux: bool) -> None:
    """linux: whether the system does it; False = as where it does not"""
    spec = fake(behaviour="stall_on_load")  # for a minute
    command = list(spec.command)
    if not linux:
        program = Path(command[-1])
        start = "from vl2v_deploy.benchmarking.worker import parent\nparent.end_with_parent = print\n"
        program.write_text(start + program.read_text())
    parent = (
        "import subprocess, sys, time\n"
        f"worker = subprocess.Popen({command!r}, stdin=subprocess.PIPE, start_new_session=True,\n"
        "    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)\n"
        f"worker.stdin.write({json.dumps(spec.settings)!r} + chr(10)); worker.stdin.flush()\n"
        "while 'noise' not in worker.stderr.readline(): pass\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
    wait_for_end(worker)


def test_streams_really_overlap_and_are_timed_from_bytes_to_label_only(fake: Any, tmp_path: Path) -> None:
    spec = fake(classify_s=0.03, log=str(tmp_path / "log"))
    result = measure_engines([spec], scenario(batches=(1,), streams=(1, 3)))["fake"]
    assert {key.scope for key in result.cells if key.streams == 3} == {WHOLE}
    key = Key(WHOLE, 1, 3)
    taken, wall_s = samples_s(result, key), sum(result.cells[key].wall_s)
    assert min(taken) >= 0.03
    assert wall_s < 0.75 * sum(taken)  # a third where nothing else runs; one after the other it is the sum
    assert sum(result.cells[Key(WHOLE, 1)].wall_s) >= sum(samples_s(result, Key(WHOLE, 1)))
    told = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    # The engine knows how many come at once before they come, and is told when it is one again.
    streams = [line[2] for line in told if line[1] == "streams"]
    assert streams[:4] == ["1", "3", "1", "1"] and told[0][1] == "streams"


def test_a_stream_that_raises_is_heard() -> None:
    def call(number: int, stream: int) -> None:
        if number == 5:
            raise BenchmarkError("five")

    with pytest.raises(BenchmarkError, match="five"):
        time_calls(Pool(), call, 20, 3)


def test_every_call_is_made_once_whoever_makes_it() -> None:
    made: list[int] = []
    samples, _ = time_calls(Pool(), lambda number, _: made.append(number), 100, 4)
    assert sorted(made) == list(range(100)) and len(samples) == 100


def test_busy_until_the_time_is_over_or_enough_was_done() -> None:
    samples, wall_s = keep_busy(Pool(), lambda *_: time.sleep(0.01), 1, 0.1)
    assert wall_s >= 0.1 and 1 <= len(samples) <= 10
    assert len(keep_busy(Pool(), lambda *_: None, 1, 60.0, most=7)[0]) == 7
    assert len(keep_busy(Pool(), lambda *_: time.sleep(0.05), 2, 1e-9)[0]) == 2  # each stream at least once


def test_warm_up_lasts_until_calls_get_no_faster() -> None:
    falling = chain([0.2, 0.1, 0.05], repeat(0.02))  # a sleep on a busy machine lasts longer, for a while
    samples, steady = warm_up(Pool(), lambda *_: time.sleep(next(falling)), 1, limit_s=30.0)
    assert steady and len(samples) >= 5 and samples[0] >= 0.2
    assert not is_steady([3.0, 1.0, 1.0]) and not is_steady([3.0, 2.0, 1.0, 1.0])
    assert is_steady([3.0, 1.0, 1.2, 1.1, 1.05])  # a disturbance is no reason to go on


def test_warm_up_ends_at_its_limit_and_says_so() -> None:
    samples, steady = warm_up(Pool(), lambda *_: time.sleep(0.02), 1, limit_s=0.0)
    assert (len(samples), steady) == (2, False)


def test_slow_cells_still_get_enough_samples_for_a_median_or_a_mean() -> None:
    keys = Key(WHOLE, 1), Key(WHOLE, 32), Key(SESSION, 1)
    plan = scenario(batches=(1, 32), rounds=10)
    assert plan_samples(dict.fromkeys(keys, 100.0), plan, 2) == dict(zip(keys, (20, 3, 3), strict=True))
    # rounds * samples_per_round, no more
    assert plan_samples(dict.fromkeys(keys, 1e-6), plan, 2) == dict.fromkeys(keys, 40)


@pytest.mark.parametrize("engines", [1, 6])
@pytest.mark.parametrize("cells", [1, 3, 40])
def test_the_plan_takes_the_time_it_was_given_however_much_there_is_to_do(engines: int, cells: int) -> None:
    cost_s = {Key(WHOLE, batch): 1e-4 * batch for batch in range(1, cells + 1)}
    plan = scenario(seconds=60.0, rounds=10, samples_per_round=10**6, batches=tuple(range(1, cells + 1)))
    planned = plan_samples(cost_s, plan, engines)
    total_s = engines * sum((n + min(n, 10)) * cost_s[key] for key, n in planned.items())
    assert total_s == pytest.approx(60.0, rel=0.1)


@pytest.mark.parametrize(("samples", "rounds"), [(3, 10), (10, 3), (100, 7), (1, 1)])
def test_rounds_share_out_exactly_the_planned_samples(samples: int, rounds: int) -> None:
    shares = [share_of_round(samples, number, rounds) for number in range(rounds)]
    assert sum(shares) == samples and max(shares) - min(shares) <= 1


def test_worker_rejects_an_engine_it_does_not_know(fake: Any) -> None:
    settings: Mapping[str, Any] = {**fake().settings, "engine": "abacus"}
    told = measure_engines([EngineSpec("odd", settings)], scenario())["odd"].failure
    assert told is not None and "unknown engine 'abacus'" in told
