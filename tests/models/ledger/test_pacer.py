"""The pace of a ledger's key: all that is allowed, and never more, by a clock that the test turns."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from vl2v_deploy.models.ledger import pacer as pacing
from vl2v_deploy.models.ledger.pacer import Pacer


class Clock(threading.Event):
    """A monotonic clock; who waits turns it on."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wall = 1000.0, 1.7e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall + self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", SimpleNamespace(monotonic=clock.monotonic, time=clock.time))
    yield clock


def sent_in(pacer: Pacer, clock: Clock, seconds: float, images: int, work_s: float = 0.0) -> list[float]:
    """When requests went out; each takes the one who sends it some time, as a late thread would."""
    times, end = [], clock.now + seconds
    while clock.now < end:
        pacer.wait(images, clock)
        times.append(clock.now)
        clock.now += work_s
    return times


def most_in_a_minute(times: list[float]) -> int:
    return max(bisect_right(times, start + 60.0) - number for number, start in enumerate(times))


@pytest.mark.parametrize(
    ("allowed", "images"), [(400, 96), (400, 1), (2000, 8), (60, 1), (3000, 1), (12, 1), (3000, 25)]
)
def test_ledger_pacer_reaches_the_limit_and_no_minute_passes_it(
    tmp_path: Path, clock: Clock, allowed: int, images: int
) -> None:
    pacer = Pacer(tmp_path / "pace", requests_per_minute=None, images_per_minute=allowed)
    minutes = 10 if allowed / images < 100 else 3
    times = sent_in(pacer, clock, 60.0 * minutes, images)
    assert images * most_in_a_minute(times) <= allowed
    assert images * len(times) / minutes >= 0.95 * allowed


def test_ledger_pacer_makes_up_for_threads_that_come_late(tmp_path: Path, clock: Clock) -> None:
    pacer = Pacer(tmp_path / "pace", requests_per_minute=1200, images_per_minute=None)
    times: list[float] = []
    while clock.now < 1120.0:
        times += sent_in(pacer, clock, 0.5, 1)
        clock.now += 0.3  # nobody asks
    assert most_in_a_minute(times) <= 1200
    assert len(times) / 2 >= 0.95 * 1200


def test_ledger_pacer_is_shared_and_both_limits_hold(tmp_path: Path, clock: Clock) -> None:
    pacers = [Pacer(tmp_path / "pace", requests_per_minute=100, images_per_minute=300) for _ in range(3)]
    times = []
    while clock.now < 1600.0:
        for number, pacer in enumerate(pacers):
            pacer.wait(2 if number else 0, clock)
            times.append(clock.now)
    assert most_in_a_minute(times) <= 100
    assert len(times) / 10 >= 95


def test_ledger_pacer_a_pause_is_for_all_and_also_for_who_waits_already(tmp_path: Path, clock: Clock) -> None:
    waits, other = (
        Pacer(tmp_path / "pace", requests_per_minute=60, images_per_minute=None) for _ in range(2)
    )

    class Interrupted(Clock):
        def wait(self, timeout: float | None = None) -> bool:
            if not paused:
                paused.append(clock.now)
                other.pause(30.0)
            return clock.wait(timeout)

    paused: list[float] = []
    start = clock.now
    waits.wait(1, clock)
    assert clock.now == start
    waits.wait(1, Interrupted())
    assert paused and clock.now >= paused[0] + 30.0
    other.pause(1e9)
    other.wait(1, clock)
    assert clock.now <= start + 30.0 + pacing.LONGEST_PAUSE_S + 2.0


def test_ledger_pacer_finds_a_limit_that_nobody_told(tmp_path: Path, clock: Clock) -> None:
    pacer = Pacer(tmp_path / "pace", requests_per_minute=None, images_per_minute=None)
    server_full_at, refused, answered = 0.0, 0, 0
    start = clock.now
    while clock.now < start + 480.0:
        pacer.wait(1, clock)
        clock.now += 0.02
        if server_full_at > clock.now + 1.0:  # 300 a minute, a second of burst
            refused += 1
            pacer.slow_down()
            pacer.pause(1.0)
            continue
        server_full_at = max(server_full_at, clock.now) + 0.2
        answered += 1
        pacer.speed_up()
    assert answered / 8 >= 0.7 * 300
    assert refused <= 0.02 * answered


def test_ledger_pacer_slows_down_once_for_a_volley_and_not_below_a_tenth(
    tmp_path: Path, clock: Clock
) -> None:
    pacer = Pacer(tmp_path / "pace", requests_per_minute=600, images_per_minute=None)
    sent_in(pacer, clock, 60.0, 1)
    for _ in range(16):  # all that were in flight together
        pacer.slow_down()
        pacer.pause(0.5)
    clock.now += 0.5
    once = len(sent_in(pacer, clock, 60.0, 1))
    assert 0.6 * 600 <= once <= 0.75 * 600
    for _ in range(30):
        pacer.slow_down()
        clock.now += 2.0
    assert 0.09 * 600 <= len(sent_in(pacer, clock, 60.0, 1)) <= 0.11 * 600
    recovering = [len(sent_in_answered(pacer, clock, 60.0)) for _ in range(6)]
    assert recovering == sorted(recovering) and recovering[-1] >= 0.95 * 600


def sent_in_answered(pacer: Pacer, clock: Clock, seconds: float) -> list[float]:
    times, end = [], clock.now + seconds
    while clock.now < end:
        times += sent_in(pacer, clock, 0.01, 1)
        pacer.speed_up()
    return times


def test_ledger_pacer_clocks_may_jump_and_machines_restart(tmp_path: Path, clock: Clock) -> None:
    pacer = Pacer(tmp_path / "pace", requests_per_minute=1, images_per_minute=None)
    pacer.wait(1, clock)
    pacer.pause(500.0)
    clock.wall += 3600.0 * 24  # the wall clock jumps: at worst the last minute is forgotten
    now = clock.now
    pacer.wait(1, clock)
    assert clock.now - now < 61.0
    pacer.pause(500.0)
    clock.wall, clock.now = clock.wall + clock.now, 5.0  # the machine was started anew
    pacer.wait(1, clock)
    assert clock.now < 66.0
    for damaged in (b"", b"{}", b'{"booted_at": 1', b"\xff" * 512):
        (tmp_path / "pace").write_bytes(damaged)
        pacer.wait(1, clock)


def test_ledger_pacer_real_threads_and_a_fork(tmp_path: Path) -> None:
    pacer = Pacer(tmp_path / "pace", requests_per_minute=6000, images_per_minute=None)
    pacer.wait(1)
    end = time.monotonic() + 2.0
    times: list[float] = []

    def send() -> None:
        while time.monotonic() < end:
            pacer.wait(1)
            times.append(time.monotonic())

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    child = os.fork()
    if child == 0:
        pacer.wait(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for thread in threads:
        thread.join()
    assert 0.8 * 200 <= len(times) <= 200 + 50 + 8  # half a second of burst, and who waited at the end
