"""Several processes at once share what was paid for, name a failed run, and end in order together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fake_vendor import fake_vendor
from tests.helpers.many_runs import metrics_so_far, processes_of, tiny_recipe, vl2v, wait_until
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.record import finished_runs, read_record
from vl2v_deploy.models.run_directory import CHECKPOINT


@pytest.mark.long
def test_two_jobs_at_once_pay_for_each_image_once(tmp_path: Path) -> None:
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        recipe = write_vendor_recipe(
            tmp_path / "recipe", vendor.url("openai"), images=6, logit_scale=20.0, batch_size=4
        )
        sweep = ("sweep", recipe, "--out", tmp_path / "out", "--set", "seed=0,1", "--jobs", "2")
        result = vl2v(*sweep, cache=tmp_path / "cache")
        assert result.returncode == 0, result.stdout + result.stderr
        images = [item for item in vendor.bill() if item.kind == "image"]
        again = vl2v(*sweep, cache=tmp_path / "cache")
        assert again.returncode == 0, again.stdout + again.stderr
        assert len([item for item in vendor.bill() if item.kind == "image"]) == len(images)
    runs = finished_runs(tmp_path / "out")
    assert [run.name for run in sorted(runs)] == ["seed=0", "seed=1"]
    records = [read_record(run) for run in runs]
    paid = sum(record.teacher.queries for record in records)
    assert paid == max(record.teacher.images for record in records)  # each image once, whoever asked
    assert "seed=0: started" in result.stdout and "2/2 seed=" in result.stdout
    assert (tmp_path / "out/table.md").is_file()


@pytest.mark.slow
def test_jobs_that_fail_are_named_and_the_others_kept(tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    (out / "seed=1").mkdir(parents=True)
    (out / "seed=1/thesis.txt").write_text("somebody's")
    grid = ("--set", "method=zero_shot", "--set", "seed=0,1")
    result = vl2v("sweep", recipe, "--out", out, *grid, "--jobs", "2", cache=tmp_path / "cache")
    assert result.returncode == 1
    assert "seed=1: failed: " in result.stdout and "/2 seed=0: finished" in result.stdout
    assert result.stderr.startswith("Error: 1 of 2 runs failed: seed=1; their logs are in "), result.stderr
    assert [run.name for run in finished_runs(out)] == ["seed=0"]
    assert "Error: " in (out / "logs/seed=1.log").read_text()
    assert (out / "seed=1/thesis.txt").is_file()


@pytest.mark.long
def test_jobs_end_in_order_with_the_command(tmp_path: Path) -> None:
    recipe, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "out"
    grid = ["method=erm", "distill.steps=100000", "checkpoint_every_s=0", "seed=0,1"]
    words = [
        "sweep",
        recipe,
        "--out",
        out,
        *(word for each in grid for word in ("--set", each)),
        "--jobs",
        "2",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "vl2v_deploy", *map(str, words)],
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    runs = [out / "seed=0", out / "seed=1"]
    wait_until(lambda: all("distill" in metrics_so_far(run) for run in runs), "two runs that train")
    assert len(processes_of("vl2v_deploy", str(out))) == 3
    process.terminate()
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "Interrupted by SIGTERM: " in said and "go on with: vl2v-deploy sweep" in said, said
    assert processes_of("vl2v_deploy", str(out)) == []
    for run in runs:
        assert (partial_of(run) / CHECKPOINT).is_file()
        assert "Interrupted by SIGTERM: " in (out / f"logs/{run.name}.log").read_text()
