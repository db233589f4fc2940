"""Bad images, failing sessions and a full queue: who is told, and that nobody else is touched."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
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
from vl2v_deploy.client import MicroBatcher
from vl2v_deploy.errors import BatchError, BusyError, ImageError

pytestmark = pytest.mark.usefixtures("no_batcher_thread_left")


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
