"""The demo's parts are the Makefile's, and a command's time and processes are counted whole."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.demo_parts import demo_commands, measured, one_import, scratch
from vl2v_deploy.errors import BenchmarkError

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
# Two children, one after the other, each busy for 0.3 s of its own processor time.
CHILD = "import time\nwhile time.process_time() < 0.3: pass"
PARENT = """
import subprocess, sys
for _ in range(2):
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_commands_are_those_of_the_makefile() -> None:
    commands = demo_commands(["align.steps=7"])
    assert [command.split()[1] for command in commands] == ["distill", "export", "predict", "benchmark"]
    assert commands[0].endswith("--overwrite --set=align.steps=7") and "--scenario" in commands[3]


def test_time_and_processes_of_children_are_counted(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    part = measured(f"{sys.executable} parent.py '{CHILD}'", tmp_path)
    assert part.processes == 3 and part.stages == {}
    assert 0.6 <= part.cpu_s <= part.wall_s * 2 + 1


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="exit status 3"):
        measured(f"{sys.executable} -c 'raise SystemExit(3)'", tmp_path)


def test_an_import_tells_how_much_it_brings() -> None:
    little, more = one_import("json"), one_import("vl2v_deploy.client")
    assert little.modules < more.modules and little.cpu_s > 0


def test_a_scratch_folder_holds_the_inputs_and_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    folder = scratch(tmp_path, tmp_path / "run")
    assert (folder / "recipes/quickstart.yaml").is_file() and (folder / "runs/quickstart/run.json").is_file()
