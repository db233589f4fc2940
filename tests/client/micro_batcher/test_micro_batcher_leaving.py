"""Callers that leave, a batcher that is closed, a process that ends or forks: nothing hangs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
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
    our_threads,
    run_loop,
    until,
    until_async,
    waiting,
)
from vl2v_deploy.client import MicroBatcher
from vl2v_deploy.errors import ClosedError, ImageError

pytestmark = pytest.mark.usefixtures("no_batcher_thread_left")


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
