"""The budget of a day is never passed: by threads, by processes, across restarts and kills."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.helpers.cascades import UNSURE, ScriptedTeacher, TextStudent
from vl2v_deploy.client import Cascade
from vl2v_deploy.client.cascade.budget import DailyBudget
from vl2v_deploy.errors import SettingError

PROGRAM = """
import random, sys, time
from pathlib import Path
from tests.helpers.cascades import UNSURE, ScriptedTeacher, TextStudent
from vl2v_deploy.client import Cascade
from vl2v_deploy.client.cascade.budget import DailyBudget
file, most, usd, seed, sent = sys.argv[1:]
draws = random.Random(int(seed))
while True:
    budget = DailyBudget(Path(file), float(most), lambda: "2026-11-28")  # a restart, each time
    granted, day = budget.reserve(float(usd), draws.randint(1, 5))
    with open(sent, "ab", buffering=0) as log:
        log.write(b"." * granted)
    if granted and draws.random() < 0.2:
        budget.release(float(usd), 0, day)
    if not granted:
        break
"""


def test_what_there_is_room_for_is_granted_to_the_cent(tmp_path: Path) -> None:
    budget = DailyBudget(tmp_path / "spent", 0.3, lambda: "2026-11-28")
    assert budget.reserve(0.1, 2) == (2, "2026-11-28")
    assert not budget.is_used_up
    assert budget.reserve(0.1, 2)[0] == 1  # 0.1 + 0.1 + 0.1 is 0.3 here
    assert budget.is_used_up and budget.reserve(0.1, 1)[0] == 0
    assert budget.spent_today_usd == 0.3
    budget.release(0.1, 1, "2026-11-28")
    assert not budget.is_used_up and budget.reserve(0.1, 2)[0] == 1


def test_a_new_day_begins_with_nothing_spent_and_money_returns_to_its_own_day(tmp_path: Path) -> None:
    day = ["2026-11-28"]
    budget = DailyBudget(tmp_path / "spent", 1.0, lambda: day[0])
    assert budget.reserve(1.0, 2)[0] == 1 and budget.is_used_up
    day[0] = "2026-11-29"
    assert not budget.is_used_up and budget.spent_today_usd == 0.0
    assert budget.reserve(1.0, 1)[0] == 1
    budget.release(1.0, 1, "2026-11-28")
    assert budget.spent_today_usd == 1.0 and budget.reserve(1.0, 1)[0] == 0


@pytest.mark.parametrize("seed", range(5))
def test_restarts_and_releases_never_pass_it(tmp_path: Path, seed: int) -> None:
    draws = random.Random(seed)
    out, file = 0, tmp_path / "spent"
    for _ in range(60):
        budget = DailyBudget(file, 0.05, lambda: "2026-11-28")
        granted, day = budget.reserve(0.001, draws.randint(1, 7))
        out += granted
        assert out <= 50
        if granted and draws.random() < 0.3:
            budget.release(0.001, granted, day)
            out -= granted
        assert budget.spent_today_usd == pytest.approx(out * 0.001)
    assert out > 40


def test_threads_share_it(tmp_path: Path) -> None:
    budget = DailyBudget(tmp_path / "spent", 1.0, lambda: "2026-11-28")
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: budget.reserve(0.01, 3)[0], range(60)))
    assert sum(granted) == 100


def test_two_processes_that_are_killed_and_restarted_never_pass_it(tmp_path: Path) -> None:
    """What is sent is written after the reservation; killed processes may only have sent less."""
    file, sent = tmp_path / "spent", tmp_path / "sent"
    sent.touch()

    def start(seed: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, str(file), "0.4", "0.001", str(seed), str(sent)]
        return subprocess.Popen(command)

    killed = 0
    running = [start(0), start(1)]
    while killed < 2:
        before = sent.stat().st_size
        while sent.stat().st_size < before + 40:
            assert any(process.poll() is None for process in running), "they ended before they were killed"
        running[killed].send_signal(signal.SIGKILL)
        running[killed].wait()
        running[killed] = start(10 + killed)
        killed += 1
    assert [process.wait(60) for process in running] == [0, 0]
    budget = DailyBudget(file, 0.4, lambda: "2026-11-28")
    assert budget.spent_today_usd == pytest.approx(0.4)
    assert 380 <= sent.stat().st_size <= 400


def test_a_file_that_is_none_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "spent").write_text("not a database, but long enough to be read as one" * 10)
    for file in (tmp_path / "spent", tmp_path / "nowhere" / "spent"):
        with pytest.raises(SettingError, match=str(file)):
            DailyBudget(file, 1.0)


DAY = "2026-11-28"
INSERT = "INSERT INTO spent VALUES (?, ?, 3) ON CONFLICT (day) DO UPDATE SET pico = excluded.pico"


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def scribbled(file: Path) -> None:
    file.write_bytes(b"not a database, but long enough to be read as one" * 100)


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def without_table(file: Path) -> None:
    change(file, "DROP TABLE spent")


def negative(file: Path) -> None:
    change(file, INSERT, DAY, -(10**15))


def worded(file: Path) -> None:
    change(file, INSERT, DAY, "none")


def nothing_noted(file: Path) -> None:
    change(file, INSERT, DAY, None)


DAMAGES = [emptied, scribbled, torn, without_table, negative, worded, nothing_noted]


def change(file: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(sql, values)


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink], ids=lambda damage: damage.__name__)
def test_a_file_that_is_damaged_while_it_is_used_grants_nothing_more(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    file = tmp_path / "spent"
    budget = DailyBudget(file, 5.0, lambda: DAY)
    assert budget.reserve(1.0, 3)[0] == 3
    damage(file)
    for _ in range(2):
        with pytest.raises(SettingError, match=str(file)):
            budget.reserve(1.0, 1)
        with pytest.raises(SettingError, match=str(file)):
            assert budget.spent_today_usd
    with suppress(SettingError):
        budget.release(1.0, 3, DAY)  # ... nor does money that is given back mend it
    with pytest.raises(SettingError, match=str(file)):
        budget.reserve(1.0, 1)
    assert file.exists() is (damage is not Path.unlink)  # it is not made anew


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_an_error_at_the_start(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "spent"
    DailyBudget(file, 5.0, lambda: DAY).reserve(1.0, 5)
    damage(file)
    with pytest.raises(SettingError, match=f"{file}: .*move it away"):
        DailyBudget(file, 5.0, lambda: DAY)


def test_money_is_not_returned_to_a_file_in_which_it_was_not_reserved(tmp_path: Path) -> None:
    file = tmp_path / "spent"
    budget = DailyBudget(file, 2.0, lambda: DAY)
    budget.reserve(1.0, 2)
    file.unlink()
    DailyBudget(file, 2.0, lambda: DAY).reserve(1.0, 1)  # another service, which knows nothing of the first
    budget.release(1.0, 2, DAY)
    assert budget.spent_today_usd == 0.0 and budget.reserve(1.0, 9)[0] == 2  # not 3
    budget.release(1.0, 2, "2026-11-27")
    assert budget.spent_today_usd == 2.0


def test_a_price_below_a_picodollar_counts_as_one(tmp_path: Path) -> None:
    budget = DailyBudget(tmp_path / "spent", 3e-12, lambda: DAY)
    assert budget.reserve(1e-15, 10)[0] == 3


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")  # Linux says so of FAT


@pytest.mark.parametrize("links", [True, False])
def test_many_that_start_at_once_make_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with ThreadPoolExecutor(8) as pool:
        granted = pool.map(
            lambda _: DailyBudget(tmp_path / "spent", 1.0, lambda: DAY).reserve(0.1, 1)[0], range(40)
        )
        assert sum(granted) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["spent"]


def test_without_hard_links_the_file_is_filled_by_who_created_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that finds it empty waits for it, and neither fills nor replaces it."""
    monkeypatch.setattr(os, "link", no_links)
    file, replace = tmp_path / "spent", os.replace
    created, others = threading.Event(), threading.Event()

    def slow_replace(source: Path, target: Path) -> None:
        created.set()
        assert others.wait(60.0)
        time.sleep(0.1)
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow_replace)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(DailyBudget, file, 1.0, lambda: DAY)
        assert created.wait(60.0) and file.stat().st_size == 0
        second = pool.submit(DailyBudget, file, 1.0, lambda: DAY)
        others.set()
        assert first.result(60.0).reserve(0.1, 8)[0] + second.result(60.0).reserve(0.1, 8)[0] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["spent"]


def test_without_hard_links_what_cannot_be_filled_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SettingError, match="No space left"):
        DailyBudget(tmp_path / "spent", 1.0, lambda: DAY)
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_refused_in_a_line_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "spent"
    file.touch()
    with pytest.raises(SettingError, match=r"spent: .*it is empty.*move it away") as refused:
        DailyBudget(file, 1.0, lambda: DAY)
    assert "\n" not in str(refused.value) and file.stat().st_size == 0


def test_a_damaged_file_is_told_by_summary_and_metrics_and_stops_neither(tmp_path: Path) -> None:
    file, teacher = tmp_path / "spent", ScriptedTeacher()
    limits = {"usd_per_query": 1.0, "max_usd_per_day": 9.0, "spent_file": file}
    with Cascade(TextStudent(), teacher, threshold=0.3, timeout_s=60.0, **limits) as cascade:  # type: ignore[arg-type]
        assert cascade.summary().budget_usable is True
        assert (cascade.predict(UNSURE).reason, cascade.summary().spent_today_usd) == ("unsure", 1.0)
        scribbled(file)
        said = cascade.summary()
        assert (said.budget_usable, said.spent_today_usd, said.spent_usd) == (False, None, 1.0)
        assert str(file) in str(said.budget_problem)
        assert cascade.predict(UNSURE).reason == "budget" and len(teacher.calls) == 1
    with Cascade(TextStudent(), teacher, threshold=0.3) as cascade:  # type: ignore[arg-type]
        assert cascade.summary().budget_usable is None
