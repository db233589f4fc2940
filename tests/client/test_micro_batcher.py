"""Requests gathered into batches: no answer lost, mixed up or late, whatever a caller or the session does."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.client import MicroBatcher, Student, micro_batcher
from vl2v_deploy.errors import BatchError, BusyError, ClosedError, ImageError

PATIENCE_S = 60.0  # nothing waits this long unless something is broken
LONG_MS = 60_000.0


class Gate:
    """Whoever passes waits until it is opened; `reached` counts those that came."""

    def __init__(self, opened: bool = True) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.reached = 0
        if opened:
            self.open()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        with self._lock:
            self.reached += 1
        assert self._open.wait(PATIENCE_S), "the gate was never opened"


class NumberStudent:
    """Images are numbers, and so are the answers; a negative one is a bad image.

    batches: the numbers of each run
    """

    def __init__(self, run: Gate | None = None, decode: dict[int, Gate] | None = None) -> None:
        self.batches: list[list[int]] = []
        self.decoded: list[int] = []
        self.fault: BaseException | None = None
        self._run, self._decode = run or Gate(), decode or {}

    def pixels(self, number: int) -> np.ndarray[Any, Any]:
        if number in self._decode:
            self._decode[number].pass_through()
        self.decoded.append(number)
        if number < 0:
            raise ImageError(f"{number}: is bad")
        return np.full((2, 2, 3), number, np.int64)

    def run(self, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], None]:
        self.batches.append(images[:, 0, 0, 0].tolist())
        self._run.pass_through()
        if self.fault:
            raise self.fault
        return images[:, 0, 0, :1] * 2, None

    def prediction_from_logits(self, row: np.ndarray[Any, Any], *, top: int, logits: bool) -> Any:
        return (int(row[0]) // 2, top, logits) if logits else int(row[0]) // 2


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert our_threads() == []


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vl2v-")]


def make(student: Any, **options: Any) -> MicroBatcher:
    return MicroBatcher(student, **options)


def until(reached: Callable[[], object]) -> None:
    """Return when it is true; for what no event tells."""
    end_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end_s, "never came true"
        time.sleep(0.001)


async def until_async(reached: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end_s, "never came true"
        await asyncio.sleep(0.001)


def run_loop(main: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await main

    return asyncio.run(limited())


def waiting(batcher: MicroBatcher) -> int:
    return len(batcher._waiting)


def answers(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(PATIENCE_S) for future in futures]


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


def test_a_bad_image_is_its_own_callers_error_alone(callers: ThreadPoolExecutor) -> None:
    numbers = [n if n % 3 else -n - 1 for n in range(300)]

    async def ask_all(batcher: MicroBatcher) -> list[Any]:
        return await asyncio.gather(*map(batcher.predict_async, numbers), return_exceptions=True)

    def check(number: int, said: object) -> None:
        assert str(said) == (f"{number}: is bad" if number < 0 else str(number))
        assert isinstance(said, ImageError if number < 0 else int)

    with make(NumberStudent(), max_queue=600) as batcher:
        futures = [callers.submit(batcher.predict, n) for n in numbers]
        for number, said in zip(numbers, run_loop(ask_all(batcher)), strict=True):
            check(number, said)
        for number, future in zip(numbers, futures, strict=True):
            check(number, future.exception(PATIENCE_S) or future.result())
        assert (batcher.statistics.refused, batcher.statistics.answered) == (200, 400)


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), SystemExit(3)], ids=repr)
def test_a_run_that_fails_is_told_to_its_whole_batch_and_to_no_other(
    callers: ThreadPoolExecutor, fault: BaseException
) -> None:
    gate = Gate(opened=False)
    student = NumberStudent(gate)
    with make(student, max_batch=3, max_delay_ms=LONG_MS) as batcher:
        first = callers.submit(batcher.predict, 0)
        until(lambda: gate.reached)
        student.fault = fault
        futures = [callers.submit(batcher.predict, n) for n in range(1, 4)]
        until(lambda: waiting(batcher) == 3)
        gate.open()
        errors = [future.exception(PATIENCE_S) for future in [first, *futures]]
        assert all(isinstance(error, BatchError) for error in errors)
        assert len({id(error) for error in errors}) == 4  # one each: a raised exception gathers a traceback
        assert all(error.__cause__ is fault for error in errors if error)
        assert str(errors[1]) == f"the session failed on a batch of 3: {type(fault).__name__}: {fault}"
        with pytest.raises(BatchError, match="batch of 1"):
            run_loop(batcher.predict_async(5))
        student.fault = None
        assert batcher.predict(6) == 6
        said = batcher.statistics
    assert (said.failed, said.answered, said.batches, said.in_flight) == (5, 1, 4, 0)
    assert [len(batch) for batch in student.batches] == [1, 3, 1, 1]  # nothing was tried twice


def test_a_session_that_loses_rows_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    student = NumberStudent()
    monkeypatch.setattr(student, "run", lambda images: (np.zeros((2, 1)), None))
    with make(student) as batcher, pytest.raises(BatchError, match="1 images went in, 2 rows came out"):
        batcher.predict(1)


def test_more_than_max_queue_is_refused_at_once(callers: ThreadPoolExecutor) -> None:
    gate = Gate(opened=False)
    with make(NumberStudent(gate), max_batch=2, max_queue=3) as batcher:
        futures = [callers.submit(batcher.predict, n) for n in range(3)]
        until(lambda: batcher.statistics.in_flight == 3)
        with pytest.raises(BusyError, match="3 images are in flight, max_queue is 3: try again later"):
            batcher.predict(3)
        with pytest.raises(BusyError):
            run_loop(batcher.predict_async(4))
        gate.open()
        assert answers(futures) == [0, 1, 2]
        assert batcher.predict(5) == 5
        assert batcher.statistics.rejected == 2


def test_images_that_are_being_decoded_count_too(callers: ThreadPoolExecutor) -> None:
    slow = Gate(opened=False)
    with make(NumberStudent(decode={1: slow}), max_batch=1, max_queue=1) as batcher:
        future = callers.submit(batcher.predict, 1)
        until(lambda: slow.reached)
        with pytest.raises(BusyError):
            batcher.predict(2)
        slow.open()
        assert future.result(PATIENCE_S) == 1


def test_who_was_answered_or_refused_finds_room_at_once(callers: ThreadPoolExecutor) -> None:
    def ask_again(batcher: MicroBatcher, sign: int) -> None:
        for number in range(1, 300):
            try:
                assert batcher.predict(sign * number) == number
            except ImageError:
                assert sign < 0

    with make(NumberStudent(), max_batch=4, max_queue=8) as batcher:
        answers([callers.submit(ask_again, batcher, -1 if n == 7 else 1) for n in range(8)])
        assert batcher.statistics.rejected == 0


def test_room_is_made_before_the_caller_is_told() -> None:
    gate, seen = Gate(opened=False), []
    with make(NumberStudent(gate), max_batch=1, max_queue=1) as batcher:
        future = batcher._submit(1)
        future.add_done_callback(lambda _: seen.append(batcher.statistics.in_flight))
        gate.open()
        future.result(PATIENCE_S)
    assert seen == [0]


def test_a_cancelled_caller_takes_no_place_in_a_batch() -> None:
    gate = Gate(opened=False)
    student = NumberStudent(gate)

    async def main(batcher: MicroBatcher) -> None:
        running = asyncio.create_task(batcher.predict_async(1))
        await until_async(lambda: gate.reached)
        tasks = [asyncio.create_task(batcher.predict_async(n)) for n in (2, 3, 4)]
        await until_async(lambda: waiting(batcher) == 3)
        tasks[1].cancel()
        running.cancel()  # too late to be left out, early enough to be told
        await asyncio.wait([running, tasks[1]])
        gate.open()
        assert [await tasks[0], await tasks[2]] == [2, 4]
        assert running.cancelled()
        assert tasks[1].cancelled()

    with make(student, max_delay_ms=LONG_MS) as batcher:
        run_loop(main(batcher))
    said = batcher.statistics
    assert student.batches[0] == [1]
    assert sorted(student.batches[1]) == [2, 4]
    assert (said.answered, said.cancelled, said.in_flight) == (3, 1, 0)


def test_an_image_whose_caller_left_is_not_decoded() -> None:
    slow = Gate(opened=False)
    student = NumberStudent(decode={1: slow})

    async def main(batcher: MicroBatcher) -> None:
        first = asyncio.create_task(batcher.predict_async(1))
        await until_async(lambda: slow.reached)
        second = asyncio.create_task(batcher.predict_async(2))
        await until_async(lambda: batcher.statistics.in_flight == 2)
        second.cancel()
        await asyncio.wait([second])
        said = batcher.statistics
        assert (said.cancelled, said.in_flight) == (1, 1)  # its place is free while the pool is still busy
        slow.open()
        assert await first == 1

    with make(student, workers=1) as batcher:
        run_loop(main(batcher))
    assert student.decoded == [1]


def test_a_caller_that_left_while_its_bad_image_was_decoded(caplog: pytest.LogCaptureFixture) -> None:
    slow = Gate(opened=False)

    async def main(batcher: MicroBatcher) -> None:
        task = asyncio.create_task(batcher.predict_async(-1))
        await until_async(lambda: slow.reached)
        task.cancel()
        await asyncio.wait([task])
        slow.open()
        assert await batcher.predict_async(2) == 2

    with make(NumberStudent(decode={-1: slow}), workers=1) as batcher:
        run_loop(main(batcher))
    assert batcher.statistics.refused == 1
    assert caplog.records == []  # nothing went wrong in a callback, out of sight


def test_the_event_loop_is_never_blocked() -> None:
    """Only the loop itself opens what decoding and running wait for."""
    slow, gate = Gate(opened=False), Gate(opened=False)

    async def main() -> None:
        async with make(NumberStudent(gate, decode={1: slow})) as batcher:
            task = asyncio.create_task(batcher.predict_async(1))
            await until_async(lambda: slow.reached)
            slow.open()
            await until_async(lambda: gate.reached)
            closing = asyncio.create_task(batcher.__aexit__())
            with pytest.raises(ClosedError):
                while True:
                    await asyncio.sleep(0.001)
                    await batcher.predict_async(2)
            gate.open()
            assert await task == 1
            await closing

    run_loop(main())


def test_close_answers_what_was_accepted_and_nothing_else(callers: ThreadPoolExecutor) -> None:
    gate, slow = Gate(opened=False), Gate(opened=False)
    student = NumberStudent(gate, decode={3: slow})
    batcher = make(student, max_batch=1)
    futures = [callers.submit(batcher.predict, n) for n in range(4)]
    until(lambda: gate.reached and slow.reached and waiting(batcher) == 2)
    closing = [callers.submit(batcher.close) for _ in range(2)]
    until(lambda: batcher._closed)
    with pytest.raises(ClosedError, match="is closed"):
        batcher.predict(9)
    with pytest.raises(ClosedError):
        run_loop(batcher.predict_async(9))
    gate.open()
    until(lambda: batcher.statistics.answered == 3)
    assert not any(future.done() for future in closing)  # one image is still being decoded
    slow.open()
    assert answers(futures) == list(range(4))
    answers(closing)
    batcher.close()
    assert our_threads() == []


def test_close_does_not_wait_for_ever_for_a_bad_or_cancelled_image(callers: ThreadPoolExecutor) -> None:
    slow = Gate(opened=False)
    batcher = make(NumberStudent(decode={-1: slow, 2: slow}), workers=1)

    async def leave() -> None:
        task = asyncio.create_task(batcher.predict_async(2))
        await until_async(lambda: batcher.statistics.in_flight == 2)
        task.cancel()
        await asyncio.wait([task])

    bad = callers.submit(batcher.predict, -1)
    until(lambda: slow.reached)
    run_loop(leave())
    closing = callers.submit(batcher.close)
    until(lambda: batcher._closed)
    slow.open()
    closing.result(PATIENCE_S)
    assert isinstance(bad.exception(PATIENCE_S), ImageError)
    assert batcher.statistics.in_flight == 0


def test_close_ends_when_the_last_image_turns_out_bad(callers: ThreadPoolExecutor) -> None:
    slow = Gate(opened=False)
    batcher = make(NumberStudent(decode={-1: slow}))
    bad = callers.submit(batcher.predict, -1)
    until(lambda: slow.reached)
    closing = callers.submit(batcher.close)
    until(lambda: batcher._closed)
    time.sleep(0.05)  # its thread has seen that it is closed, and sleeps again
    slow.open()
    assert isinstance(bad.exception(PATIENCE_S), ImageError)
    closing.result(PATIENCE_S)


def test_a_forgotten_close_does_not_keep_python_from_ending() -> None:
    code = (
        "import threading, time, numpy as np\n"
        "from vl2v_deploy.client import MicroBatcher\n"
        "class Slow:\n"
        "    def pixels(self, image): return np.zeros((1, 1, 3), np.uint8)\n"
        "    def run(self, images): time.sleep(0.2); return images[:, 0, 0], None\n"
        "    def prediction_from_logits(self, row, top, logits): return row.shape\n"
        "batcher = MicroBatcher(Slow())\n"
        "ask = lambda: print(batcher.predict(None), flush=True)\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "while not batcher.statistics.in_flight: time.sleep(0.001)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_is_told_that_it_has_no_batcher() -> None:
    code = (
        "import os, sys, numpy as np\n"
        "from vl2v_deploy.client import MicroBatcher\n"
        "batcher = MicroBatcher(None)\n"
        "if child := os.fork():\n"
        "    batcher.close()\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "batcher.predict(None)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("forked: make a new one here")


def test_a_refused_image_leaves_nothing_in_memory() -> None:
    errors: list[weakref.ref[BaseException]] = []

    def ask(batcher: MicroBatcher) -> None:
        try:
            batcher.predict(-1)
        except ImageError as error:
            errors.append(weakref.ref(error))

    async def ask_async(batcher: MicroBatcher) -> None:
        try:
            await batcher.predict_async(-1)
        except ImageError as error:
            errors.append(weakref.ref(error))

    gc.disable()
    try:
        with make(NumberStudent()) as batcher:
            ask(batcher)
            run_loop(ask_async(batcher))
        assert [error() for error in errors] == [None, None]
    finally:
        gc.enable()


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


def test_a_batch_is_answered_in_order_and_runs_with_other_callers_images(callers: ThreadPoolExecutor) -> None:
    gate = Gate(opened=False)
    student = NumberStudent(gate)
    with make(student, max_batch=4, max_delay_ms=LONG_MS, max_queue=9) as batcher:
        first = callers.submit(batcher.predict, 100)
        until(lambda: gate.reached)  # the session is busy: what comes now fills the next batches
        other = callers.submit(batcher.predict, 200)
        until(lambda: waiting(batcher) == 1)
        batch = callers.submit(batcher.predict_batch, iter(range(50)), top=2, logits=True)
        until(lambda: waiting(batcher) == 8)  # as many as there is room for
        gate.open()
        assert batch.result(PATIENCE_S) == [(number, 2, True) for number in range(50)]
        assert answers([first, other]) == [100, 200]
        assert batcher.statistics.answered == 52 and batcher.statistics.in_flight == 0
        assert batcher.predict_batch([]) == []
    assert student.batches[1][0] == 200 and len(student.batches[1]) == 4
    assert max(map(len, student.batches)) == 4


def test_a_batch_leaves_room_for_others() -> None:
    gate = Gate(opened=False)
    with make(NumberStudent(gate), max_batch=2, max_queue=20) as batcher, ThreadPoolExecutor(1) as one:
        batch = one.submit(batcher.predict_batch, range(50))
        until(lambda: waiting(batcher) + 2 >= 4)
        time.sleep(0.05)
        assert batcher.statistics.in_flight <= 4
        gate.open()
        assert batch.result(PATIENCE_S) == list(range(50))
        assert batcher.statistics.rejected == 0


def test_a_batch_that_finds_no_room_at_all_is_told_at_once(callers: ThreadPoolExecutor) -> None:
    gate = Gate(opened=False)
    with make(NumberStudent(gate), max_batch=2, max_queue=2) as batcher:
        futures = [callers.submit(batcher.predict, n) for n in range(2)]
        until(lambda: batcher.statistics.in_flight == 2)
        with pytest.raises(BusyError):
            batcher.predict_batch([5, 6])
        gate.open()
        assert answers(futures) == [0, 1]
        assert batcher.predict_batch([5, 6, 7, 8]) == [5, 6, 7, 8]


def test_a_bad_image_ends_its_batch_and_takes_the_rest_back() -> None:
    with make(NumberStudent(), max_batch=4) as batcher:
        with pytest.raises(ImageError, match="image 5: -1: is bad"):
            batcher.predict_batch([0, 1, 2, 3, 4, -1, *range(6, 90)])
        until(lambda: batcher.statistics.in_flight == 0)
        said = batcher.statistics
        assert said.answered + said.refused + said.cancelled < 20  # the later ones were never handed in
        assert batcher.predict(3) == 3
