"""predict_batch of a MicroBatcher: in order, beside other callers, within the queue's room."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.micro_batching import (
    LONG_MS,
    PATIENCE_S,
    Gate,
    NumberStudent,
    answers,
    make,
    until,
    waiting,
)
from vl2v_deploy.errors import BusyError, ImageError

pytestmark = pytest.mark.usefixtures("no_batcher_thread_left")


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
