"""SIGTERM to a command of several runs, and to torchrun: what is trained stays, and it goes on later."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.many_runs import metrics_so_far, processes_of, tiny_recipe, vl2v, wait_until
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.record import finished_runs
from vl2v_deploy.models.run_directory import CHECKPOINT

STEPS = 300
SETTINGS = (f"--set=distill.steps={STEPS}", "--set=checkpoint_every_s=0")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def terminated(program: tuple[str, ...], words: list[str], run: Path, cache: Path) -> tuple[int, str]:
    """Exit code and standard error of a command that gets SIGTERM when `run` trains; none of it is left."""
    process = subprocess.Popen(
        [sys.executable, *program, "-m", "vl2v_deploy", *words],
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: '"distill"' in metrics_so_far(run), "a run that trains")
    process.terminate()
    said = process.communicate(timeout=100)[1]
    assert processes_of(*words) == []
    return process.returncode, said


def step_of(run: Path) -> int:
    content = torch.load(partial_of(run) / CHECKPOINT, weights_only=True)
    assert content["stage"] == "distill"
    return int(content["step"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "methods", "second"),
    [("sweep", "zero_shot,erm", "method=erm"), ("distill", "[zero_shot,erm]", "erm")],
)
def test_signals_to_several_runs_keep_the_finished_and_the_begun(
    tmp_path: Path, command: str, methods: str, second: str
) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    words = [command, str(recipe), "--out", str(out), f"--set=method={methods}", *SETTINGS]
    code, said = terminated((), words, out / second, tmp_path / "cache")
    assert code == 128 + signal.SIGTERM, said
    [line] = [line for line in said.splitlines() if "Interrupted by SIGTERM: " in line]
    assert line.endswith(f"go on with: {shlex.join(['vl2v-deploy', *words, '--resume'])}")
    [first] = finished_runs(out)
    kept, step = (first / "run.json").stat().st_mtime_ns, step_of(out / second)
    assert 0 < step < STEPS
    missing = vl2v("table", out, cache=tmp_path / "cache").stderr
    assert f"Missing: {out / second}: has a checkpoint" in missing
    resumed = vl2v(*words, "--resume", cache=tmp_path / "cache")
    assert resumed.returncode == 0, resumed.stderr
    assert (first / "run.json").stat().st_mtime_ns == kept
    assert len(finished_runs(out)) == 2


@pytest.mark.long
def test_signals_to_torchrun_keep_what_is_trained(tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    words = ["distill", str(recipe), "--out", str(out), "--set=method=erm", *SETTINGS, "--set=trials=2"]
    code, said = terminated(TORCHRUN, words, out / "trial-0", tmp_path / "cache")
    assert code == 1  # torchrun's own
    [line] = [line for line in said.splitlines() if "Interrupted by SIGTERM: " in line]
    assert line.endswith(f"go on with: torchrun ... -m vl2v_deploy {' '.join(words)} --resume")
    assert "Error: " not in said
    assert 0 < step_of(out / "trial-0") < STEPS
    resumed = subprocess.run(
        [sys.executable, *TORCHRUN, "-m", "vl2v_deploy", *words, "--resume"],
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert [run.name for run in finished_runs(out)] == ["trial-0", "trial-1"]
    lines = [line.partition(":")[0] for line in resumed.stdout.splitlines() if "OOD" in line]
    assert lines == [str(out / "trial-0"), str(out / "trial-1")]  # one process reports
