"""The harness itself: what it reports of engines whose speed and failures are known."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vl2v_deploy.benchmark.engines import EngineProcess, EngineSpec
from vl2v_deploy.benchmark.rounds import Cell, Schedule, measure_engines, plan_samples, share_of_round
from vl2v_deploy.errors import BenchmarkError

FAKE_WORKER = """
import os, sys, time
import numpy as np
from vl2v_deploy.benchmark.worker import Engine, main
from vl2v_deploy.errors import ProviderError

def load(settings):
    print("noise on stdout, as libraries make")
    behaviour = settings.get("behaviour")
    if behaviour == "refuse":
        raise ProviderError("no such provider here")
    if behaviour == "stall_on_load":
        time.sleep(60)
    time.sleep(settings.get("load_s", 0.0))
    calls = []

    def work(images, per_image_s):
        calls.append(len(images))
        if behaviour == "die" and len(calls) > 4:
            print("the fuse blew", file=sys.stderr, flush=True)
            os._exit(7)
        if behaviour == "stall" and len(calls) > 4:
            print("waiting for Godot", file=sys.stderr, flush=True)
            time.sleep(60)
        if settings.get("log"):
            with open(settings["log"], "a") as log:
                log.write(settings["name"] + " " + repr(sorted(images)) + chr(10))
        time.sleep(per_image_s * len(images))
        return np.zeros((len(images), 2), np.float32)

    def classify(encoded):
        work([e.decode() for e in encoded], settings["classify_s"])
        return [0] * len(encoded)

    return Engine(
        classify=classify,
        to_tensor=lambda encoded: np.array([int(e) for e in encoded]),
        to_logits=lambda tensor: work([str(t) for t in tensor], settings["logits_s"]),
        facts={"provider": "fake", "threads": settings["threads"], "model_bytes": 5},
    )

sys.exit(main(load))
"""


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    script = tmp_path / "fake_worker.py"
    script.write_text(FAKE_WORKER)
    images = []
    for number in range(4):
        images.append(tmp_path / f"{number}.img")
        images[-1].write_text(str(number))

    def spec(name: str = "fake", **settings: Any) -> EngineSpec:
        common = {"name": name, "threads": 1, "images": [str(p) for p in images]}
        times = {"classify_s": 0.004, "logits_s": 0.002}
        return EngineSpec(name, {**common, **times, **settings}, (sys.executable, str(script)))

    return spec


def schedule(**changes: Any) -> Schedule:
    values: dict[str, Any] = {"batches": (1, 3), "rounds": 3, "samples_per_round": 4, "seconds": 0.6}
    return Schedule(**{**values, "timeout_s": 20.0, **changes})


def test_known_sleeps_are_accounted_to_the_right_engine_scope_and_batch(fake: Any) -> None:
    specs = [fake("quick", load_s=0.1), fake("slow", classify_s=0.03, logits_s=0.012, load_s=1.0)]
    results = measure_engines(specs, schedule())
    expected_ms = {
        ("quick", "bytes_to_label"): 4,
        ("quick", "tensor_to_logits"): 2,
        ("slow", "bytes_to_label"): 30,
        ("slow", "tensor_to_logits"): 12,
    }
    for (name, scope), per_image_ms in expected_ms.items():
        for batch in (1, 3):
            samples = results[name].samples_s(Cell(scope, batch))
            assert len(samples) >= 3
            # sleep never returns early: a sample below is a wrong account. Above, the machine may be busy.
            assert min(samples) * 1e3 >= per_image_ms * batch
            assert min(samples) * 1e3 <= per_image_ms * batch + 25
            assert len(results[name].warm_up[Cell(scope, batch)]) == 2
    assert 0.1 <= results["quick"].facts["load_s"] < 1.0 <= results["slow"].facts["load_s"]


def test_every_engine_gives_as_many_samples_and_sees_the_same_images(fake: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    specs = [fake("a", log=str(log)), fake("b", log=str(log), classify_s=0.02)]
    results = measure_engines(specs, schedule())
    for cell in results["a"].rounds:
        assert [len(r) for r in results["a"].rounds[cell]] == [len(r) for r in results["b"].rounds[cell]]
    calls = [line.split(" ", 1) for line in log.read_text().splitlines()]
    of = {name: [images for who, images in calls if who == name] for name in "ab"}
    assert of["a"] == of["b"] and len(set(of["a"])) > 2


def test_engines_take_turns_and_change_places_every_round(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    ask = EngineProcess.ask

    def recording(self: EngineProcess, request: Any, doing: str, expected_s: float = 0.0) -> Any:
        asked.append((doing.split(" (")[0], self.name))
        return ask(self, request, doing, expected_s)

    monkeypatch.setattr(EngineProcess, "ask", recording)
    measure_engines([fake("a"), fake("b")], schedule(batches=(1,), rounds=2))
    turns = ["".join(name for doing, name in asked if doing == f"in round {number}") for number in (1, 2)]
    assert turns == ["abab", "baba"]


def test_a_stalled_engine_hits_the_time_limit_and_says_where(fake: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(BenchmarkError, match=r"'fake' stalled while .*no answer in .*Godot") as caught:
        measure_engines([fake(behaviour="stall")], schedule(timeout_s=6.0))
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 40


def test_an_engine_that_stalls_while_loading_is_reported(fake: Any) -> None:
    with pytest.raises(BenchmarkError, match="stalled while loading"):
        measure_engines([fake(behaviour="stall_on_load")], schedule(timeout_s=1.0))


def test_a_dying_engine_is_reported_with_its_last_words(fake: Any) -> None:
    with pytest.raises(BenchmarkError, match=r"'fake' died while .*exit status 7; .*the fuse blew") as caught:
        measure_engines([fake(behaviour="die")], schedule())
    assert "\n" not in str(caught.value)


def test_an_error_of_the_users_making_comes_through_as_it_is(fake: Any) -> None:
    with pytest.raises(BenchmarkError, match=r"^engine 'fake': no such provider here$"):
        measure_engines([fake(behaviour="refuse")], schedule())


def test_a_worker_that_is_no_worker_is_reported(fake: Any) -> None:
    spec = EngineSpec("cat", fake().settings, (sys.executable, "-c", "print('hello')"))
    with pytest.raises(BenchmarkError, match=r"'cat' answered .*hello.*expected one line of JSON"):
        measure_engines([spec], schedule())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_worker_outlives_an_interruption(fake: Any, error: type[BaseException]) -> None:
    engines: list[EngineProcess] = []
    with pytest.raises(error), EngineProcess(fake(), 20.0) as engine:
        engines.append(engine)
        raise error
    assert engines[0]._process.returncode is not None


def test_a_worker_leaves_when_its_parent_is_gone(fake: Any) -> None:
    spec = fake()
    settings = json.dumps(spec.settings) + "\n"
    done = subprocess.run(
        spec.command,
        input=settings,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1  # the ready reply; the library's noise went to stderr
    assert "noise" in done.stderr


def test_slow_cells_still_get_enough_samples_for_a_median_or_a_mean() -> None:
    cells = Cell("bytes_to_label", 1), Cell("bytes_to_label", 32)
    slow = plan_samples(dict.fromkeys(cells, 100.0), schedule(batches=(1, 32), rounds=10))
    assert slow == {cells[0]: 20, cells[1]: 3}
    quick = plan_samples(dict.fromkeys(cells, 1e-6), schedule(batches=(1, 32), rounds=10))
    assert quick == {cells[0]: 40, cells[1]: 40}  # rounds * samples_per_round, no more


@pytest.mark.parametrize(("samples", "rounds"), [(3, 10), (10, 3), (100, 7), (1, 1)])
def test_rounds_share_out_exactly_the_planned_samples(samples: int, rounds: int) -> None:
    shares = [share_of_round(samples, number, rounds) for number in range(rounds)]
    assert sum(shares) == samples and max(shares) - min(shares) <= 1


def test_worker_rejects_an_engine_it_does_not_know(fake: Any) -> None:
    settings: Mapping[str, Any] = {**fake().settings, "engine": "abacus"}
    with pytest.raises(BenchmarkError, match="unknown engine 'abacus'"):
        measure_engines([EngineSpec("odd", settings)], schedule())
