"""Runs as jobs of submitit, on this machine and on a real SLURM; an interrupted job goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.many_runs import metrics_so_far, processes_of, tiny_recipe, vl2v, wait_until
from tests.helpers.slurm import Slurm, free_ports, one_node, why_none
from vl2v_deploy.models.record import finished_runs, read_record

pytest.importorskip("submitit", reason="needs the extra `cluster`")

EXAMPLE = Path(__file__).parents[2] / "examples/distill.sbatch"
STEPS = 300
TRAINING = ("--set", f"distill.steps={STEPS}", "--set", "checkpoint_every_s=0")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if reason := why_none():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, one_node(Path(folder)) as started:
        yield started


@pytest.mark.long
def test_jobs_of_the_local_launcher_resume_after_an_interruption(tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    words = ["sweep", recipe, "--out", out, "--set", "method=zero_shot,erm", *TRAINING]
    process = subprocess.Popen(
        [sys.executable, "-m", "vl2v_deploy", *map(str, words), "--launcher", "local", "--pack", "2"],
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: "distill" in metrics_so_far(out / "method=erm"), "a run that has begun to train")
    before = metrics_so_far(out / "method=erm")
    [task] = processes_of("submitit.core._submit", str(out))
    os.kill(task, signal.SIGUSR2)  # the scheduler's warning
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert "Submitted 2 runs as 1 jobs" in said
    _check_resumed(out / "method=erm", before)
    assert sorted(run.name for run in finished_runs(out)) == ["method=erm", "method=zero_shot"]
    assert (out / "table.md").is_file()


@pytest.mark.long
def test_slurm_runs_a_sweep_and_resumes_its_jobs(slurm: Slurm, tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    words = ("sweep", recipe, "--out", out, "--set", "method=erm", "--set", "seed=0,1", *TRAINING)
    options = ("--launcher", "slurm", "--partition", "main", "--cpus", "1", "--minutes", "30")
    result = vl2v(*words, *options, cache=tmp_path / "cache", **slurm.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = sorted(line.split()[0] for line in slurm.queue())
    assert [job.partition("_")[2] for job in jobs] == ["0", "1"]  # one array
    # One is warned, as before its time is over; the other is killed and queued again, as when its node fails.
    interruptions = {out / "seed=0": ("scancel", "--signal=USR2", jobs[0])}
    interruptions[out / "seed=1"] = ("scontrol", "requeue", jobs[1])
    before: dict[Path, str] = {}

    def interrupted() -> bool:
        for run, how in interruptions.items():
            if run not in before and "distill" in (measured := metrics_so_far(run)):
                slurm(*how)
                before[run] = measured
        return len(before) == len(interruptions)

    wait_until(interrupted, "two runs that train")
    table = vl2v("table", out, cache=tmp_path / "cache")
    missing = [line for line in table.stderr.splitlines() if line.startswith("Missing: ")]
    assert len(missing) == 2 and all(line.endswith("has a checkpoint") for line in missing), table.stderr
    wait_until(lambda: not slurm.queue(), "an empty queue")
    logs = "\n".join(file.read_text() for file in (out / "logs").glob("*.log*"))
    for run, measured in before.items():
        assert (run / "run.json").is_file(), logs
        _check_resumed(run, measured)
    table = vl2v("table", out, cache=tmp_path / "cache")
    assert table.returncode == 0 and "Missing" not in table.stderr, table.stderr


@pytest.mark.slow
def test_slurm_that_takes_no_jobs_is_said(slurm: Slurm, tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    words = ("sweep", recipe, "--out", out, "--set", "seed=0,1", "--launcher", "slurm", "--partition", "gpu")
    result = vl2v(*words, cache=tmp_path / "cache", **slurm.environment)
    assert result.returncode == 1
    *echoed, said = result.stderr.splitlines()  # submitit shows what sbatch printed
    assert said.startswith("Error: slurm took no jobs: ") and "invalid partition specified: gpu" in said
    assert all(line.startswith("sbatch: error: ") for line in echoed), result.stderr
    assert not slurm.queue()


@pytest.mark.long
def test_slurm_runs_the_example_of_nnodes(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out, log = tiny_recipe(tmp_path / "recipe"), tmp_path / "out", tmp_path / "log"
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("RDZV_HOST", "127.0.0.1")
    monkeypatch.setenv("RDZV_PORT", str(free_ports(1)[0]))
    monkeypatch.setenv("PROCESSES_PER_NODE", "2")
    slurm("sbatch", "--nodes=1", f"--output={log}", str(EXAMPLE), str(recipe), str(out))
    wait_until(lambda: not slurm.queue(), "an empty queue")
    assert (out / "run.json").is_file(), log.read_text()
    assert read_record(out).processes == 2


def _check_resumed(run: Path, before: str) -> None:
    """That the run is whole, and begins with what was measured before it was interrupted."""
    assert read_record(run).stages["distill"].steps == STEPS
    measured = (run / "metrics.jsonl").read_text()
    assert measured.startswith(before) and len(measured) > len(before) > 0
