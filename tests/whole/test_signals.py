"""Real signals to small processes that use the mechanism as the command line does; they import no torch."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import matplotlib.path
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg

from tests.helpers.running import wait_for_end
from vl2v_deploy.cli.interruption import what_was_kept
from vl2v_deploy.cli.main import Commands, cli
from vl2v_deploy.signals import SIGNALS, Interrupted, ended_by_signals, postponed, received

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
ROOT = Path(__file__).parents[2]
HEAD = """
import ctypes, os, signal, sys, threading, time
from vl2v_deploy.signals import Interrupted, ended_by_signals, end_with_parent, postponed, received
def say(text): print(text, flush=True)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(program: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE}
        command = [*prefix, sys.executable, "-c", HEAD + program]
        process = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload]
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process  # type: ignore[no-any-return]

    yield run
    for process in started:
        process.kill()
        process.communicate()


CLEANS = """
try:
    with ended_by_signals():
        say("ready")
        time.sleep(60)
except Interrupted as interrupted:
    say(f"cleaned after {interrupted}")
    sys.exit(128 + interrupted.number)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_a_command_clean_up(start: Start, number: int) -> None:
    process = start(CLEANS)
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert said == f"cleaned after {signal.Signals(number).name}\n"
    assert process.returncode == 128 + number


DROPS = """
class Cleared:
    def __del__(self):
        say("ready")
        time.sleep(60)
try:
    with ended_by_signals():
        Cleared()
        {then}
except Interrupted as interrupted:
    say(f"cleaned after {{interrupted}}")
"""


@pytest.mark.parametrize(
    ("then", "said_before"),
    [
        ("time.sleep(60)", ""),
        ("with postponed(): time.sleep(0.1); say('the end of the block')", "the end of the block\n"),
    ],
)
def test_a_signal_in_a_destructor_is_not_lost(start: Start, then: str, said_before: str) -> None:
    process = start(DROPS.format(then=then))
    process.send_signal(signal.SIGHUP)
    said, error = process.communicate(timeout=20)
    assert said == f"{said_before}cleaned after SIGHUP\n"
    assert error == ""


def test_what_else_a_destructor_raises_is_shown(start: Start) -> None:
    process = start(DROPS.format(then="").replace("time.sleep(60)", "raise ValueError('of the destructor')"))
    _, error = process.communicate(timeout=20)
    assert "ValueError: of the destructor" in error


def test_a_signal_that_is_ignored_at_the_start_stays_ignored(start: Start) -> None:
    process = start(CLEANS, prefix=("nohup",))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "cleaned after SIGTERM\n"


# A mutex of the C library that is locked twice: no signal ends that wait, and no handler of Python's runs.
STUCK = """
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
with ended_by_signals():
    threading.Timer(0.5, say, ["ready"]).start()  # by then the main thread waits
    libc.pthread_mutex_lock(mutex)
"""
CLEANS_FOR_LONG = """
with ended_by_signals():
    try:
        say("ready")
        time.sleep(60)
    finally:
        say("cleaning")
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "program",
    [
        CLEANS_FOR_LONG,
        pytest.param(STUCK, marks=pytest.mark.skipif(sys.platform != "linux", reason="a mutex of glibc's")),
    ],
)
def test_a_second_signal_ends_at_once(start: Start, program: str) -> None:
    process = start(program)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # as `timeout` does: to the process, and to its group
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.2)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert "second SIGTERM" in error


def test_a_terminal_that_is_gone_does_not_get_in_the_way(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        HEAD
        + "try:\n    with ended_by_signals():\n        say('up')\n        time.sleep(60)\n"
        + "except Interrupted:\n    time.sleep(0.2)\n    say('to nobody')\n    sys.exit(129)\n"
    )
    # the middle process leads the session: it gets the signal, then the terminal fails
    process = start(
        "import pty\n"
        "child, terminal = pty.fork()\n"
        f"if child == 0: os.execl(sys.executable, sys.executable, {str(program)!r})\n"
        "os.read(terminal, 100)\n"
        "say('ready')\n"
        "os.close(terminal)\n"
        "say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert process.communicate(timeout=20)[0] == "129\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has it")
def test_a_child_ends_with_its_parent_also_on_kill(start: Start) -> None:
    child = HEAD + "end_with_parent(signal.SIGKILL)\nsay('up')\ntime.sleep(60)"
    process = start(
        "import subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "say('ready')\nsay(child.pid)\ntime.sleep(60)"
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    wait_for_end(pid)


def test_signals_that_are_postponed_come_at_the_end_of_the_outermost_block() -> None:
    passed = []
    with pytest.raises(Interrupted) as raised, ended_by_signals(), postponed():
        with postponed():
            signal.raise_signal(signal.SIGTERM)
            passed.append("inner")
        assert received() == signal.SIGTERM
        passed.append("outer")
    assert passed == ["inner", "outer"]
    assert raised.value.number == signal.SIGTERM
    assert received() is None  # what comes next in this process starts anew


def test_what_cleans_up_may_postpone_signals_too() -> None:
    with pytest.raises(Interrupted), ended_by_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            with postponed():
                pass
            cleaned = True
    assert cleaned


def test_signals_of_an_application_stay_its_own() -> None:
    def own(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with ended_by_signals():
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_are_left_alone_in_other_threads() -> None:
    seen: list[object] = []

    def other() -> None:
        with ended_by_signals(), postponed():
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == before


class Interrupting:
    """An array that a signal interrupts while it is taken."""

    def __array__(self, *_: object, **__: object) -> npt.NDArray[np.float64]:
        signal.raise_signal(signal.SIGTERM)
        return np.eye(3)


@click.command()
def draw() -> None:
    RendererAgg(9, 9, 72)._renderer.draw_path(
        GraphicsContextBase(), matplotlib.path.Path.unit_circle(), Interrupting()
    )


@click.command()
def fail() -> None:
    raise ValueError("no signal")


def test_an_error_that_a_library_makes_of_a_signal_ends_as_the_signal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = Commands(commands={"draw": draw, "fail": fail})
    with pytest.raises(ValueError, match="affine transformation"), ended_by_signals():
        draw.main([], standalone_mode=False)
    with pytest.raises(SystemExit) as ended:
        commands.main(["draw"])
    assert ended.value.code == 128 + signal.SIGTERM
    assert "SIGTERM" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no signal"):
        commands.main(["fail"])


@pytest.mark.parametrize(
    ("words", "kept", "again"),
    [
        ("distill r.yaml --overwrite", "trained", "vl2v-deploy distill r.yaml --resume"),
        ("sweep r.yaml --resume", "trained", "vl2v-deploy sweep r.yaml --resume"),
        ("teacher embed r.yaml", "paid for", "vl2v-deploy teacher embed r.yaml"),
        ("predict b x --out o.csv --overwrite", "row", "vl2v-deploy predict b x --out o.csv --resume"),
        ("predict b photos", "half-written", "vl2v-deploy predict b photos"),
        ("export 'my run'", "half-written", "vl2v-deploy export 'my run'"),
        (
            f"predict b {' '.join(f'{number}.png' for number in range(4000))} --out o.csv",
            "row",
            "vl2v-deploy predict b 0.png 1.png ... --out o.csv --resume (... stands for 3998 more)",
        ),
    ],
)
def test_after_signals_it_is_said_how_to_go_on(words: str, kept: str, again: str) -> None:
    import shlex

    said = what_was_kept(cli, shlex.split(words), signal.SIGTERM)
    assert "SIGTERM" in said and kept in said and said.endswith(f": {again}") and "\n" not in said
