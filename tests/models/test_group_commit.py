"""Threads that write together: every call once, in few groups, and each gets its own result or error."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from vl2v_deploy.models.group_commit import GroupCommit


def test_ledger_group_commit_writes_each_call_once_and_those_that_wait_together() -> None:
    groups: list[list[int]] = []
    inside = threading.Semaphore(1)

    def write(group: Sequence[int]) -> list[int | Exception]:
        assert inside.acquire(blocking=False), "two groups were written at once"
        groups.append(list(group))
        time.sleep(0.005)
        inside.release()
        return [ValueError(number) if number % 10 == 7 else 2 * number for number in group]

    commit = GroupCommit(write)

    def call(number: int) -> int | str:
        try:
            return commit(number)
        except ValueError as error:
            return f"refused {error}"

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, range(200)))
    assert results == [f"refused {n}" if n % 10 == 7 else 2 * n for n in range(200)]
    assert sorted(number for group in groups for number in group) == list(range(200))
    assert len(groups) < 100  # 16 threads: at most 15 wait while one group is written


def test_ledger_group_commit_that_fails_fails_for_all_and_the_next_is_written() -> None:
    release = threading.Event()
    full = OSError("disk is full")

    def write(group: Sequence[str]) -> list[str]:
        if group == ["first"]:
            release.wait(10)
            return ["done"]
        if "after" not in group:
            raise full
        return ["done"] * len(group)

    commit: GroupCommit[str, str] = GroupCommit(write)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(commit, "first")
        while not commit._writing:
            time.sleep(0.001)
        others = [pool.submit(commit, f"other {number}") for number in range(4)]
        while len(commit._waiting) < 4:
            time.sleep(0.001)
        release.set()
        assert first.result() == "done"
        assert [other.exception() for other in others] == [full] * 4
    with pytest.raises(OSError, match="disk is full"):
        commit("other")
    assert commit("after") == "done"
