"""Requests gathered into batches: no answer lost, mixed up or late."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.micro_batching import (
    LONG_MS,
    PATIENCE_S,
    Gate,
    NumberStudent,
    answers,
    make,
    run_loop,
    until,
    waiting,
)
from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.client import MicroBatcher, Student, micro_batcher
from vl2v_deploy.errors import ImageError

pytestmark = pytest.mark.usefixtures("no_batcher_thread_left")


def test_every_caller_gets_the_answer_to_its_own_image(callers: ThreadPoolExecutor) -> None:
    student = NumberStudent()

    async def ask_many(batcher: MicroBatcher) -> list[int]:
        return await asyncio.gather(*(batcher.predict_async(n) for n in range(10_000, 10_200)))

    with make(student, max_batch=8, max_queue=1000, workers=3) as batcher:
        futures = [callers.submit(batcher.predict, n) for n in range(2000)]
        assert run_loop(ask_many(batcher)) == list(range(10_000, 10_200))
        assert answers(futures) == list(range(2000))
        said = batcher.statistics
    assert sorted(n for batch in student.batches for n in batch) == [*range(2000), *range(10_000, 10_200)]
    assert {len(batch) for batch in student.batches} <= set(range(1, 9))
    assert (said.answered, said.in_flight, said.batches) == (2200, 0, len(student.batches))
    assert said.mean_batch == 2200 / len(student.batches)


def test_options_of_a_prediction_are_handed_on() -> None:
    with make(NumberStudent()) as batcher:
        assert batcher.predict(7, top=5, logits=True) == (7, 5, True)
        assert run_loop(batcher.predict_async(8, top=1, logits=True)) == (8, 1, True)


def test_while_the_session_is_busy_the_next_batches_fill(callers: ThreadPoolExecutor) -> None:
    gate = Gate(opened=False)
    student = NumberStudent(gate)
    with make(student, max_batch=4, max_delay_ms=LONG_MS) as batcher:
        futures = [callers.submit(batcher.predict, 0)]
        until(lambda: gate.reached)
        for number in range(1, 10):
            futures.append(callers.submit(batcher.predict, number))
            until(lambda number=number: waiting(batcher) == number)
        gate.open()
        assert answers(futures) == list(range(10))
    assert student.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]  # first come, first served


def test_a_lone_request_is_not_held_up() -> None:
    started_s = time.monotonic()
    with make(NumberStudent(), max_delay_ms=LONG_MS) as batcher:
        assert batcher.predict(3) == 3
        assert run_loop(batcher.predict_async(4)) == 4
    assert time.monotonic() - started_s < LONG_MS / 1000 / 2


def test_a_batch_waits_for_an_image_on_its_way(callers: ThreadPoolExecutor) -> None:
    slow = Gate(opened=False)
    student = NumberStudent(decode={1: slow})
    with make(student, max_delay_ms=LONG_MS) as batcher:
        first = callers.submit(batcher.predict, 1)
        until(lambda: slow.reached)
        second = callers.submit(batcher.predict, 2)
        until(lambda: waiting(batcher) == 1)
        time.sleep(0.05)  # a batcher that does not wait would have run it by now
        slow.open()
        assert answers([first, second]) == [1, 2]
    assert student.batches == [[2, 1]]


def test_a_batch_does_not_wait_for_an_image_that_turns_out_bad(callers: ThreadPoolExecutor) -> None:
    slow = Gate(opened=False)
    with make(NumberStudent(decode={-1: slow}), max_delay_ms=LONG_MS) as batcher:
        bad = callers.submit(batcher.predict, -1)
        until(lambda: slow.reached)
        good = callers.submit(batcher.predict, 2)
        until(lambda: waiting(batcher) == 1)
        slow.open()
        assert good.result(LONG_MS / 1000 / 2) == 2
        assert isinstance(bad.exception(PATIENCE_S), ImageError)


def test_the_delay_ends_the_wait_for_an_image_on_its_way(callers: ThreadPoolExecutor) -> None:
    slow = Gate(opened=False)
    student = NumberStudent(decode={1: slow})
    with make(student, max_delay_ms=1.0) as batcher:
        late = callers.submit(batcher.predict, 1)
        until(lambda: slow.reached)
        assert callers.submit(batcher.predict, 2).result(PATIENCE_S) == 2
        slow.open()
        assert late.result(PATIENCE_S) == 1
    assert student.batches == [[2], [1]]


def test_the_delay_counts_from_the_first_image_of_the_batch(
    callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(micro_batcher, "monotonic", lambda: now_s[0])
    gate, slow = Gate(opened=False), Gate(opened=False)
    student = NumberStudent(gate, decode={3: slow})
    with make(student, max_delay_ms=LONG_MS) as batcher:
        running = callers.submit(batcher.predict, 1)
        until(lambda: gate.reached)
        ready = callers.submit(batcher.predict, 2)
        until(lambda: waiting(batcher) == 1)
        late = callers.submit(batcher.predict, 3)
        until(lambda: slow.reached)
        now_s[0] = LONG_MS / 1000 + 1  # it has waited its time while the session was busy
        gate.open()
        assert answers([running]) == [1]
        assert ready.result(LONG_MS / 1000 / 2) == 2
        slow.open()
        assert answers([late]) == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch 0: expected at least 1"),
        ({"max_delay_ms": -1.0}, "max_delay_ms -1.0: expected 0 to 60000"),
        ({"max_delay_ms": float("nan")}, "max_delay_ms nan"),
        ({"max_delay_ms": float("inf")}, "max_delay_ms inf"),
        ({"max_batch": 8, "max_queue": 7}, "max_queue 7: expected at least max_batch, 8"),
        ({"workers": 0}, "workers 0: expected at least 1"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(NumberStudent(), **options)


@pytest.mark.parametrize("max_delay_ms", [0, LONG_MS])
def test_the_shortest_and_the_longest_delay_work(max_delay_ms: float, callers: ThreadPoolExecutor) -> None:
    with make(NumberStudent(), max_delay_ms=max_delay_ms) as batcher:
        assert answers([callers.submit(batcher.predict, n) for n in range(50)]) == list(range(50))


def test_a_real_student_answers_as_it_does_alone(tmp_path: Path, callers: ThreadPoolExecutor) -> None:
    student = Student.load(make_bundle(tmp_path), threads=1)
    images = sorted((tmp_path / "data").rglob("*.png"))
    assert len(images) == 60
    expected = [student.predict(image) for image in images]

    async def ask_all(batcher: MicroBatcher) -> list[Any]:
        return await asyncio.gather(*map(batcher.predict_async, images))

    with MicroBatcher(student, max_batch=16) as batcher:
        from_threads = answers([callers.submit(batcher.predict, image) for image in images])
        from_asyncio = run_loop(ask_all(batcher))
        assert batcher.statistics.mean_batch > 1
    for said in (from_threads, from_asyncio):
        assert [one.label for one in said] == [one.label for one in expected]
        np.testing.assert_allclose(
            [one.probability for one in said], [one.probability for one in expected], rtol=0, atol=1e-5
        )


def test_an_observer_gets_every_batch_after_its_callers() -> None:
    seen: list[tuple[list[int], None]] = []
    failing = iter([RuntimeError("of the observer"), None, None])

    def observe(logits: np.ndarray[Any, Any], embeddings: Any) -> None:  # NumberStudent has none
        seen.append((logits[:, 0].tolist(), embeddings))
        if error := next(failing):
            raise error

    with MicroBatcher(NumberStudent(), max_batch=4, observer=observe) as batcher:  # type: ignore[arg-type]
        for number in range(3):
            assert batcher.predict(number) == number  # type: ignore[arg-type,comparison-overlap]
    assert seen == [([0], None), ([2], None), ([4], None)]
