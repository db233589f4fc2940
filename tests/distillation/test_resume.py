"""A run that was killed goes on to the very weights that it would have had."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import tiny
from vl2v_deploy.distillation import single_run
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.train import loop as stages
from vl2v_deploy.errors import RunError
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.run_directory import CHECKPOINT, METRICS, load_run
from vl2v_deploy.recipe import Recipe, load_recipe
from vl2v_deploy.signals import Interrupted, ended_by_signals

# Enough segments for SWAD to find, fill and leave a valley; a checkpoint after every step.
SETTINGS = [
    *("align.steps=30", "align.evaluate_every=3", "distill.steps=24", "distill.evaluate_every=2"),
    *("distill.swad.tolerance=2", "checkpoint_every_s=0", "distill.workers=1"),
]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.domain_folders import make_domain_folder

    folder = tmp_path_factory.mktemp("resume")
    return tiny.write_recipe(folder, make_domain_folder(folder / "data"))


def recipe_with(recipe_file: Path, *settings: str) -> Recipe:
    return load_recipe(recipe_file, [*SETTINGS, *settings])


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=["swad", "ema", "best", "last", "schedule", "patience"])
def whole(
    request: pytest.FixtureRequest, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Path]:
    """A recipe of each averaging, of a schedule and of patience, and the run that nothing interrupted."""
    fields = [f"averaging={request.param}"]
    if request.param == "schedule":
        fields = ["schedule=cosine", "warmup=0.2"]
    if request.param == "patience":
        fields = ["patience=6"]
    settings = [f"{stage}.{field}" for stage in ("align", "distill") for field in fields]
    recipe, out = recipe_with(recipe_file, *settings), tmp_path_factory.mktemp("whole") / request.param
    distill_recipe(recipe, out)
    return recipe, out


def same_weights(first: Path, second: Path) -> bool:
    one, two = load_file(first / "student.safetensors"), load_file(second / "student.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.long
def test_kill_at_random_moments_and_resume_is_bit_identical(recipe_file: Path, tmp_path: Path) -> None:
    recipe = recipe_with(recipe_file)
    whole = tmp_path / "whole"
    distill_recipe(recipe, whole)
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "vl2v_deploy", "distill", str(recipe_file), "--out", str(killed)]
    command += ["--resume", *(f"--set={setting}" for setting in SETTINGS)]
    # As many threads as here: sums over parts are rounded otherwise where there are more or fewer parts.
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    moments, stopped_at, longest_s = random.Random(0), [], 0.3
    while len(stopped_at) < 3:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_checkpoint_after(partial_of(killed), process)
            time.sleep(moments.uniform(0.0, longest_s))  # any moment of a step, an evaluation or a write
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if killed.exists():  # over before it could be killed: once more, and sooner
            assert longest_s > 1e-3, "the run is always over before it can be killed"
            shutil.rmtree(killed)
            stopped_at, longest_s = [], longest_s / 4
            continue
        content = torch.load(partial_of(killed) / CHECKPOINT, weights_only=True)
        stopped_at.append((content["stage"], content["step"]))
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0
    assert same_weights(whole, killed)
    lines = [
        [json.loads(line) for line in (run / METRICS).read_text().splitlines()] for run in (whole, killed)
    ]
    for line in (*lines[0], *lines[1]):
        line.pop("seconds", None), line.pop("images_per_s", None)
    assert lines[0] == lines[1]  # no step is missing or there twice
    records = [json.loads((run / "run.json").read_text()) for run in (whole, killed)]
    assert records[0]["metrics"] == records[1]["metrics"]
    averaging = [record["stages"]["distill"]["averaging"] for record in records]
    assert averaging[0] == averaging[1]
    assert not (killed / CHECKPOINT).exists()


def wait_for_checkpoint_after(partial: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the process has written a checkpoint of its own, or has ended."""
    path = partial / CHECKPOINT
    before = path.stat().st_mtime_ns if path.exists() else 0
    for _ in range(4800):
        if process.poll() is not None or (path.exists() and path.stat().st_mtime_ns != before):
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint within 240 s")


@pytest.mark.parametrize(("stage", "step"), [("align", 7), ("distill", 1), ("distill", 13)])
def test_every_averaging_resumes_bit_identically(
    whole: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, step: int
) -> None:
    recipe, uninterrupted = whole
    with monkeypatch.context() as patched:
        interrupt_at(stage, step, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "resumed")
    with pytest.raises(RunError, match="--resume"):
        distill_recipe(recipe, tmp_path / "resumed")
    distill_recipe(recipe, tmp_path / "resumed", resume=True)
    assert same_weights(uninterrupted, tmp_path / "resumed")


def interrupt_at(stage: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside the step, when its loss is known and its weights are not."""
    advance = stages.StageProgress.advance

    def interrupted(self: stages.StageProgress, at: int, loss: torch.Tensor, images: int) -> None:
        if (self.stage, at) == (stage, step):
            raise KeyboardInterrupt
        advance(self, at, loss, images)

    monkeypatch.setattr(stages.StageProgress, "advance", interrupted)


@pytest.mark.parametrize("whole", ["swad", "patience"], indirect=True)
@pytest.mark.parametrize("where", ["step", "evaluation", "between"])
def test_signals_leave_a_checkpoint_that_resumes_bit_identically(
    whole: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    recipe, uninterrupted = whole
    advance, evaluate = stages.StageProgress.advance, stages._evaluate
    between: list[bool] = []

    def signalled(self: stages.StageProgress, at: int, loss: torch.Tensor, images: int) -> None:
        advance(self, at, loss, images)
        if (self.stage, at) == ("distill", 7):
            if where == "step":
                signal.raise_signal(signal.SIGTERM)
            between.append(where == "between")
            if where == "evaluation":
                monkeypatch.setattr(stages, "_evaluate", interrupted)

    def interrupted(stage: stages.Stage, *given: object) -> bool:
        told = stage.evaluate
        object.__setattr__(stage, "evaluate", lambda: (told(), signal.raise_signal(signal.SIGTERM))[0])
        return evaluate(stage, *given)

    def never_due(_: object) -> bool:
        if any(between):
            signal.raise_signal(signal.SIGTERM)
        return False

    with monkeypatch.context() as patched:
        patched.setattr(stages.StageProgress, "advance", signalled)
        patched.setattr(stages.Checkpointer, "is_due", never_due)
        with pytest.raises(Interrupted), ended_by_signals():
            distill_recipe(recipe, tmp_path / "run")
        monkeypatch.undo()
    content = torch.load(partial_of(tmp_path / "run") / CHECKPOINT, weights_only=True)
    assert (content["stage"], content["step"]) == ("distill", 8)
    assert content["unevaluated"] is (where != "between")
    distill_recipe(recipe, tmp_path / "run", resume=True)
    assert same_weights(uninterrupted, tmp_path / "run")
    metrics = [(run / METRICS).read_text().count("val_loss") for run in (uninterrupted, tmp_path / "run")]
    assert metrics[0] == metrics[1]


def test_what_signals_interrupted_while_it_was_to_overwrite_a_run_goes_on(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = recipe_with(recipe_file), tmp_path / "run"
    distill_recipe(recipe_with(recipe_file, "distill.steps=1", "align.steps=1"), run)
    with monkeypatch.context() as patched:
        interrupt_at("distill", 3, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, run, overwrite=True)
    assert load_run(run).record.stages["distill"].steps == 1  # the old one is there until the new one is
    with pytest.raises(RunError, match="exists already"):
        distill_recipe(recipe, run)
    interrupt_at("align", 0, monkeypatch)  # not a step is repeated
    distill_recipe(recipe, run, resume=True)
    assert load_run(run).record.stages["distill"].steps == 24
    assert {path.name for path in run.iterdir()} >= {"run.json"} and not (run / ".replaces").exists()
    written = (run / "run.json").stat().st_mtime_ns
    distill_recipe(recipe, run, resume=True)  # as a scheduler does that starts a job again
    assert (run / "run.json").stat().st_mtime_ns == written


def test_another_recipe_or_other_data_is_not_resumed(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(recipe_file)
    with monkeypatch.context() as patched:
        interrupt_at("distill", 3, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run")
    with pytest.raises(RunError, match="another recipe"):
        distill_recipe(recipe_with(recipe_file, "seed=5"), tmp_path / "run", resume=True)
    photo, other = recipe_file.parent / "data/ink/circle/0.png", recipe_file.parent / "data/ink/circle/1.png"
    content = photo.read_bytes()
    photo.write_bytes(other.read_bytes())
    try:
        with pytest.raises(RunError, match="other data"):
            distill_recipe(recipe, tmp_path / "run", resume=True)
    finally:
        photo.write_bytes(content)
    (partial_of(tmp_path / "run") / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(RunError, match="is damaged"):
        distill_recipe(recipe, tmp_path / "run", resume=True)
    distill_recipe(recipe, tmp_path / "run", overwrite=True)
    assert load_run(tmp_path / "run").record.stages["distill"].steps == 24


def test_a_resumed_run_counts_the_queries_of_both_processes(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = recipe_with(recipe_file, "teacher_views=online", "align.steps=3", "distill.steps=3")
    with monkeypatch.context() as patched:
        interrupt_at("distill", 2, patched)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run")
    distill_recipe(recipe, tmp_path / "run", resume=True)
    # Eight images in each of six steps, and in the interrupted one twice; then 4 + 4 + 20 to measure on.
    assert read_record(tmp_path / "run").teacher.queries == 7 * 8 + 28


def test_a_run_that_was_killed_after_its_last_stage_is_only_evaluated(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(recipe_file)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(single_run, "predictions", killed)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, tmp_path / "run")
    interrupt_at("distill", 0, monkeypatch)  # not a step is repeated
    distill_recipe(recipe, tmp_path / "run", resume=True)
    assert load_run(tmp_path / "run").record.stages["distill"].steps == 24


def test_resume_of_a_run_that_never_began_begins_it(recipe_file: Path, tmp_path: Path) -> None:
    runs = distill_recipe(recipe_with(recipe_file), tmp_path / "run", resume=True)
    assert load_run(runs[0]).record.stages["distill"].steps == 24
