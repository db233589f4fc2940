"""Progress: bars on a terminal, lines in a log, nothing with --quiet."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from rich.console import Console

from vl2v_deploy import bars, terminal
from vl2v_deploy.bars import Bars, tracked
from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.cli.main import cli
from vl2v_deploy.exporting.progress import export_progress

BAR = "━"


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bars, "_quiet", False)
    monkeypatch.setattr(bars, "LOG_EVERY_S", 0.3)
    yield


def log() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=False, width=200), file


def test_a_log_gets_a_line_now_and_then_and_no_bar() -> None:
    console, file = log()
    with Bars(console=console) as shown:
        task = shown.add_task("Align", total=40, loss="-", val="")
        shown.update(task, loss="0.5")
        for _ in range(10):
            shown.advance(task)
            time.sleep(0.1)
        time.sleep(0.4)  # by the clock, also where nothing moves
    lines = file.getvalue().splitlines()
    assert 2 <= len(lines) <= 5
    assert all(line.startswith("Align: ") and " of 40, 0:00:0" in line for line in lines)
    assert lines[-1].startswith("Align: 10 of 40, ") and lines[-1].endswith(", loss 0.5")
    assert BAR not in file.getvalue()


def test_what_is_soon_done_leaves_no_line() -> None:
    console, file = log()
    with Bars(console=console) as shown:
        shown.advance(shown.add_task("Align", total=1))
    assert not file.getvalue().strip()


def test_of_several_processes_on_a_run_only_the_first_says_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say() -> str:
        terminal.new_console().print("result")
        terminal.say_once(f"notice {terminal._only_errors}")
        for _ in tracked(range(2), "Checking images", total=2):
            time.sleep(0.5)
        said = capsys.readouterr()
        return said.out + said.err

    monkeypatch.setattr(terminal, "_only_errors", False)
    spoken = say()
    assert all(words in spoken for words in ("result", "notice", "Checking images"))
    terminal.leave_to_first_process()
    assert say() == ""


def test_every_display_logs() -> None:
    console, file = log()
    with export_progress(console) as progress:
        progress.say("[int8] searches")
        time.sleep(0.8)
    with Display(console) as display, display.task("fp32", 3) as advance:
        advance(1, doing="batch 8")
        time.sleep(0.8)
    text = file.getvalue()
    assert "Exporting: [int8] searches: 0:00:0" in text
    assert "fp32: 1 of 3, " in text and "doing batch 8" in text and BAR not in text


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with Bars(console=Console(file=file, force_terminal=True, width=80)) as shown:
        shown.advance(shown.add_task("Align", total=2))
        time.sleep(0.7)
    assert BAR in file.getvalue() and "of 2" not in file.getvalue()


def test_quiet_shows_nothing_and_hands_on_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(cli, ["--quiet", "recipe", "schema"]).exit_code == 0
    found = []
    for item in tracked(range(3), "Checking", total=3):
        time.sleep(0.3)
        found.append(item)
    assert found == [0, 1, 2] and capsys.readouterr() == ("", "")


def test_without_quiet_items_are_tracked_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in tracked(range(3), "Checking", total=3):
        time.sleep(0.4)
    assert "Checking: 1 of 3" in capsys.readouterr().err
