"""The ledger counts everything once, and its budget is never passed, whoever spends and whoever dies."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from click.testing import CliRunner

from vl2v_deploy.cli.main import cli
from vl2v_deploy.errors import BudgetError, ModelError
from vl2v_deploy.models.ledger.booking import billed_to
from vl2v_deploy.models.ledger.ledger import Budget, Entry, Ledger, ledger_file, ledgers_folder
from vl2v_deploy.models.ledger.spending import Spending, spendings
from vl2v_deploy.models.ledger.tables import prepare

NO_LIMIT = Budget(None, None)
# Reserves one query after another until the budget is spent, and settles, loses or releases it in turn.
SPENDER = """
import sys, threading
from pathlib import Path
from vl2v_deploy.errors import BudgetError
from vl2v_deploy.models.ledger.ledger import Budget, Ledger
assert "torch" not in sys.modules
ledger = Ledger(Path(sys.argv[1]), Budget(float(sys.argv[2]), None))
def spend():
    for turn in range(10_000):
        try:
            number = ledger.reserve("t", images=1, texts=0, usd=0.01)
        except BudgetError:
            return
        if turn % 3 == 0: ledger.settle(number, images=1, texts=0, usd=0.01)
        elif turn % 3 == 1: ledger.lose(number)
        elif turn % 6 == 2: ledger.release(number)
threads = [threading.Thread(target=spend) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done", flush=True)
sys.stdin.read()
"""


def sums(ledger: Ledger) -> dict[str, tuple[int, int, float]]:
    """State -> images, texts, USD."""
    found: dict[str, tuple[int, int, float]] = {}
    for entry in ledger.entries():
        images, texts, usd = found.get(entry.state, (0, 0, 0.0))
        found[entry.state] = images + entry.images, texts + entry.texts, round(usd + entry.usd, 9)
    return found


def in_child(do: Callable[[], object]) -> None:
    """Runs `do` in a forked child, which then ends without any cleaning up."""
    child = os.fork()
    if child == 0:
        do()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_ledger_books_what_was_billed_by_teacher_day_and_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", NO_LIMIT)
    assert ledger.entries() == [] and not (tmp_path / "l.sqlite").exists()
    with billed_to("pacs"):
        first = ledger.reserve("a", images=3, texts=0, usd=0.3)
        lost = ledger.reserve("a", images=0, texts=2, usd=0.1)
    other = ledger.reserve("b", images=1, texts=0, usd=0.1)
    never = ledger.reserve("b", images=9, texts=0, usd=0.9)
    ledger.settle(first, images=4, texts=0, usd=0.4)
    ledger.lose(lost)
    ledger.release(never)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    expected = [
        Entry("a", "pacs", day, "settled", 4, 0, 0.4),
        Entry("a", "pacs", day, "unknown", 0, 2, 0.1),
        Entry("b", "", day, "reserved", 1, 0, 0.1),
    ]
    assert Ledger(tmp_path / "l.sqlite", NO_LIMIT).entries() == expected == ledger.entries()
    assert spendings(tmp_path, "run") == {
        "": Spending(in_flight_queries=1, in_flight_usd=0.1),
        "pacs": Spending(4, 0.4, 2, 0.1),
    }
    ledger.settle(other, images=1, texts=0, usd=0.1)
    for close in (lambda: ledger.lose(other), lambda: ledger.release(first)):
        with pytest.raises(ValueError, match="closed already"):
            close()


@pytest.mark.parametrize(
    ("budget", "usd"), [(Budget(0.5, None), 0.1), (Budget(None, 10), 0.0)], ids=["money", "queries"]
)
def test_ledger_budget_counts_all_three(tmp_path: Path, budget: Budget, usd: float) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", budget)
    numbers = [ledger.reserve("t", images=1, texts=1, usd=usd) for _ in range(5)]
    ledger.settle(numbers[0], images=1, texts=1, usd=usd)
    ledger.lose(numbers[1])
    with pytest.raises(BudgetError) as caught:
        ledger.reserve("t", images=1, texts=0, usd=usd / 2)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3
    assert sums(ledger)["reserved"][:2] == (3, 3)
    ledger.release(numbers[2])
    ledger.reserve("t", images=1, texts=1, usd=usd)  # exactly what is left


def test_ledger_budget_holds_under_16_threads_and_3_processes(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    command = [sys.executable, "-c", SPENDER, str(file), "3.0"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    spenders = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for spender in spenders:
        assert spender.stdout.readline() == "done\n"
    found = sums(Ledger(file, NO_LIMIT))
    assert sum(images for images, _, _ in found.values()) == 300  # to the last cent, and not one more
    assert sum(usd for _, _, usd in found.values()) == pytest.approx(3.0, abs=1e-9)
    assert found["reserved"][0] > 0
    for spender in spenders:
        spender.kill()
        spender.communicate()
    after = sums(Ledger(file, NO_LIMIT))
    assert "reserved" not in after and after["settled"] == found["settled"]
    assert after["unknown"][0] == found["unknown"][0] + found["reserved"][0]


def test_ledger_of_a_dead_process_is_possibly_paid_and_a_living_ones_is_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", NO_LIMIT)
    ledger.reserve("parent", images=1, texts=0, usd=0.1)

    def child() -> None:
        Ledger(tmp_path / "l.sqlite", NO_LIMIT).reserve("own", images=2, texts=0, usd=0.1)
        ledger.reserve("inherited", images=4, texts=0, usd=0.1)

    in_child(child)
    found = {entry.teacher: entry.state for entry in ledger.entries()}
    assert found == {"parent": "reserved", "own": "unknown", "inherited": "unknown"}
    with pytest.raises(BudgetError, match=r"\(6 queries\) possibly paid"):
        Ledger(tmp_path / "l.sqlite", Budget(None, 7)).reserve("t", images=1, texts=0, usd=0.0)


def test_ledger_owner_is_dead_although_its_child_lives(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", NO_LIMIT)
    held, lives = os.pipe()

    def child() -> None:
        ledger.reserve("t", images=1, texts=0, usd=0.1)
        if os.fork() == 0:
            os.close(held)
            time.sleep(30)
            os._exit(0)

    in_child(child)
    assert sums(ledger) == {"unknown": (1, 0, 0.1)}
    os.close(held)
    os.close(lives)


def test_ledger_fork_while_other_threads_spend(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", NO_LIMIT)
    stop = threading.Event()

    def spend() -> None:
        while not stop.is_set():
            ledger.settle(ledger.reserve("t", images=1, texts=0, usd=0.1), images=1, texts=0, usd=0.1)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):  # a lock that was taken at the fork would stop the child for ever
        in_child(lambda: ledger.release(ledger.reserve("t", images=1, texts=0, usd=0.1)))
    stop.set()
    for thread in threads:
        thread.join()
    assert set(sums(ledger)) == {"settled"}


def test_ledger_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    file.write_bytes(b"no database at all, but long enough to be taken for one" * 10)
    with pytest.raises(ModelError, match=r"l\.sqlite: the ledger of what was paid cannot be used") as caught:
        Ledger(file, NO_LIMIT).reserve("t", images=1, texts=0, usd=0.1)
    assert "\n" not in str(caught.value)
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ModelError, match="format 99"):
        Ledger(file, NO_LIMIT).entries()


def test_ledger_files_are_of_host_and_variable_and_never_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    one = ledger_file("api.vendor.test", "MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-other")
    assert one == ledger_file("API.vendor.test", "MY_KEY") and one.parent == ledgers_folder()
    others = [ledger_file("api.vendor.test", None), ledger_file("api.vendor.test:81", "MY_KEY")]
    assert len({one, *others}) == 3 and "sk-" not in one.name


def test_ledger_stats_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path))
    ledger = Ledger(ledger_file("vendor.test", None), NO_LIMIT)
    with billed_to("pacs"):
        ledger.settle(ledger.reserve("x/y@z", images=7, texts=0, usd=0.7), images=7, texts=0, usd=0.7)
        ledger.lose(ledger.reserve("x/y@z", images=2, texts=0, usd=0.2))
        ledger.reserve("x/y@z", images=1, texts=0, usd=0.1)

    def rows(*args: str) -> list[dict[str, object]]:
        result = CliRunner().invoke(cli, ["teacher", "stats", "--json", *args])
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    paid = {"paid_queries": 7, "possibly_paid_queries": 2, "in_flight_queries": 1, "paid_usd": 0.7}
    [by_teacher], [by_run], [by_day] = rows(), rows("--by", "run"), rows("--by", "day")
    for row in (by_teacher, by_run, by_day):
        assert row.items() >= paid.items()
    assert by_teacher["teacher"] == "x_y@z" and by_teacher["embeddings"] == 0 and by_run["run"] == "pacs"
    for args in ([], ["--by", "day"]):
        table = CliRunner().invoke(cli, ["teacher", "stats", *args]).stdout
        assert "possibly" in table and "0.70" in table


@pytest.fixture
def ledger_of_format_1(tmp_path: Path) -> Path:
    file = tmp_path / "l.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        prepare(database)
        database.executescript(
            "DROP TABLE total; CREATE TABLE total (teacher TEXT NOT NULL, run TEXT NOT NULL, day "
            "TEXT NOT NULL, state TEXT NOT NULL, images INTEGER NOT NULL, "
            "texts INTEGER NOT NULL, pico INTEGER NOT NULL,"
            "PRIMARY KEY (teacher, run, day, state)) WITHOUT ROWID; PRAGMA user_version = 1;"
            "INSERT INTO total VALUES ('t', 'r', '2026-11-28', 'settled', 3, 2, 5000000000000)"
        )
    return file


def test_a_ledger_of_format_1_is_brought_up_to_date_and_counts_the_same(ledger_of_format_1: Path) -> None:
    ledger = Ledger(ledger_of_format_1, NO_LIMIT)
    assert ledger.entries() == [Entry("t", "r", "2026-11-28", "settled", 3, 2, 5.0)]
    ledger.lose(ledger.reserve("t", images=1, texts=0, usd=0.5))
    assert sums(Ledger(ledger_of_format_1, NO_LIMIT)) == {"settled": (3, 2, 5.0), "unknown": (1, 0, 0.5)}


def test_connections_that_bring_one_ledger_up_to_date_at_once_do_it_once(ledger_of_format_1: Path) -> None:
    at_once = Barrier(8)

    def prepared(_: int) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(ledger_of_format_1, timeout=30, isolation_level=None)) as database:
            at_once.wait()
            prepare(database)
            return database.execute("SELECT teacher, images, texts FROM total").fetchall()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(prepared, range(8))) == [[("t", 3, 2)]] * 8


def test_a_ledger_that_cannot_be_brought_up_to_date_is_left_as_it_was(ledger_of_format_1: Path) -> None:
    with closing(sqlite3.connect(ledger_of_format_1, isolation_level=None)) as database:
        database.execute("CREATE TABLE total_1 (x)")  # in the way
        with pytest.raises(sqlite3.OperationalError, match="total_1"):
            prepare(database)
        database.execute("DROP TABLE total_1")
    assert sums(Ledger(ledger_of_format_1, NO_LIMIT)) == {"settled": (3, 2, 5.0)}
