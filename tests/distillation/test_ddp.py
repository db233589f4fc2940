"""Two processes of torchrun on the CPU, of one node or two: the run of one process, within float noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.nodes import two_nodes
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.run_directory import CHECKPOINT
from vl2v_deploy.recipe import load_recipe

# An odd number of images in a step: the two processes get shares of different size.
SETTINGS = ["distill.batch_per_domain=3", "distill.steps=6", "distill.evaluate_every=2", "align.steps=6"]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    return tiny.write_recipe(folder, make_domain_folder(folder / "data"))


def torchrun(recipe_file: Path, out: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "vl2v_deploy", "distill", str(recipe_file), "--out", str(out), *arguments]
    environment = os.environ | {"VL2V_DEPLOY_CACHE": str(out.parent / "cache"), "OMP_NUM_THREADS": "1"} | env
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


def settings(*more: str) -> list[str]:
    return [f"--set={setting}" for setting in (*SETTINGS, *more)]


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache-of-one"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    distill_recipe(load_recipe(recipe_file, SETTINGS), alone)
    result = torchrun(recipe_file, together, *settings())
    assert result.returncode == 0, result.stderr
    one, two = load_file(alone / "student.safetensors"), load_file(together / "student.safetensors")
    start = load_file(recipe_file.parent / "backbone.safetensors")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)
    key = "conv_stem.weight"
    moved = (one[f"student.backbone.{key}"] - start[key]).abs().max()
    apart = (one[f"student.backbone.{key}"] - two[f"student.backbone.{key}"]).abs().max()
    assert moved > 100 * apart  # what was compared is not the start
    first, second = (json.loads((run / "run.json").read_text()) for run in (alone, together))
    assert (first["processes"], second["processes"]) == (1, 2)
    # each image was paid for once, whichever process asked
    assert second["teacher"]["queries"] == first["teacher"]["queries"]
    lines = (together / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((alone / "metrics.jsonl").read_text().splitlines())  # one process wrote
    assert result.stdout.count("Accuracy on held-out images") == 1  # and spoke
    assert result.stdout.count("Next: ") == 1
    assert result.stderr.count("of the classifier dropped") == 1
    assert "Warning" not in result.stderr


@pytest.mark.slow
def test_an_error_is_said_once_and_ends_all(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = torchrun(recipe_file, tmp_path / "out", *settings())
    assert result.returncode != 0
    [said] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "exists already" in said


@pytest.mark.long
def test_a_rank_that_dies_leaves_a_run_to_be_resumed(recipe_file: Path, tmp_path: Path) -> None:
    more = ["distill.steps=60", "checkpoint_every_s=0"]
    # The second process is killed in the middle of Distill, as by the system when memory is short.
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import os, signal, threading\n"
        "def die():\n"
        "    import time, pathlib\n"
        "    metrics = pathlib.Path(os.environ['METRICS'])\n"
        "    while not (metrics.exists() and 'distill' in metrics.read_text()):\n"
        "        time.sleep(0.02)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ.get('RANK') == '1':\n"
        "    threading.Thread(target=die, daemon=True).start()\n"
    )
    out = tmp_path / "out"
    metrics = partial_of(out) / "metrics.jsonl"
    result = torchrun(recipe_file, out, *settings(*more), PYTHONPATH=str(tmp_path), METRICS=str(metrics))
    assert result.returncode != 0
    assert not out.exists()
    assert (partial_of(out) / CHECKPOINT).is_file()
    resumed = torchrun(recipe_file, out, "--resume", *settings(*more))
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((out / "run.json").read_text())["stages"]["distill"]["steps"] == 60


@pytest.mark.long
def test_nnodes_2_gives_the_run_of_one(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache-of-one"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    distill_recipe(load_recipe(recipe_file, SETTINGS), alone)
    with two_nodes(recipe_file, together, *settings(), logs=tmp_path) as nodes:
        codes = [node.agent.wait(timeout=300) for node in nodes]
        assert codes == [0, 0], "\n".join(node.log.read_text() for node in nodes)
    one, two = load_file(alone / "student.safetensors"), load_file(together / "student.safetensors")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)
    first, second = (json.loads((run / "run.json").read_text()) for run in (alone, together))
    assert (first["processes"], second["processes"]) == (1, 2)
    assert second["teacher"]["queries"] == first["teacher"]["queries"]
