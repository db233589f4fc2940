"""How long a recipe would train: what is measured, what is extrapolated, and what a dry run says of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.distillation import forecast as forecasts
from vl2v_deploy.distillation import pace as paces
from vl2v_deploy.distillation import report
from vl2v_deploy.distillation.forecast import forecast
from vl2v_deploy.distillation.pace import MEASURED, WARM_UP, Pace, measure_pace
from vl2v_deploy.models.teacher.open_clip import OpenClipTeacher
from vl2v_deploy.recipe import METHODS, load_recipe, stages_of

CPU, CLASSES, DOMAINS = torch.device("cpu"), ("circle", "square"), ("ink", "paint", "photo")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    return write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def dry_run(file: Path, *overrides: str) -> Result:
    options = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(cli, ["distill", str(file), "--dry-run", *options], catch_exceptions=False)


def test_the_pace_is_that_of_the_fastest_step_after_warm_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def step(count: int) -> float:
        counts.append(count)
        delayed_s = 9.0 if counts.count(count) > 3 else 0.0  # by another program, in all but one of MEASURED
        return 100.0 if len(counts) <= WARM_UP else 0.1 * count + delayed_s

    monkeypatch.setattr(paces, "_step_of", lambda *_: step)
    arguments = (load_recipe(file), "distill", 96, CLASSES, DOMAINS, CPU)
    pace = measure_pace(*arguments, within_s=12.0)
    assert pace == Pace(pytest.approx(1.6), images=16, steps=5)  # 32 images would take 19 s
    assert counts[:WARM_UP] == [4, 4] and counts[-MEASURED:] == [16] * MEASURED
    assert pace.of(96) == pytest.approx(9.6)
    assert measure_pace(*arguments, within_s=1000.0).images == 96
    assert measure_pace(*arguments, within_s=0.0).images == 4


def test_a_stage_of_every_method_has_a_pace(file: Path) -> None:
    for method in sorted(set(METHODS) - {"self_distill"}):
        recipe = load_recipe(file, [f"method={method}"])
        for stage in stages_of(recipe):
            pace = measure_pace(recipe, stage, 8, CLASSES, DOMAINS, CPU, within_s=0.0)
            assert pace.step_s > 0 and pace.images == 4, method


def test_an_online_teacher_is_asked_in_each_step(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    embed = OpenClipTeacher.embed_preprocessed

    def counted(teacher: OpenClipTeacher, batch: torch.Tensor) -> torch.Tensor:
        asked.append(len(batch))
        return embed(teacher, batch)

    monkeypatch.setattr(OpenClipTeacher, "embed_preprocessed", counted)
    recipe = load_recipe(file, ["teacher_views=online"])
    for stage in ("align", "distill"):
        asked.clear()
        measure_pace(recipe, stage, 8, CLASSES, DOMAINS, CPU, within_s=0.0)
        assert asked == [4] * (WARM_UP + 2 + MEASURED)


def test_all_runs_of_all_methods_are_added_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["method=[zero_shot, erm, adip]", "data.target=each", "trials=2", "align.batch_per_domain=6"]
    recipe = load_recipe(file, settings)
    monkeypatch.setattr(forecasts, "measure_pace", lambda *_, **__: Pace(0.5, images=4, steps=5))
    found = forecast(recipe, load_domains(recipe.data))
    assert found.runs == 18  # methods x targets x trials
    of_stages = [(one.method, one.stage, one.runs, one.steps, one.images) for one in found.stages]
    # two source domains for each of three targets
    adip = [("adip", "align", 6, 12, 12), ("adip", "distill", 6, 4, 8)]
    assert of_stages == [("erm", "distill", 6, 4, 8), *adip]
    seconds = 6 * (4 * 1.0 + 12 * 1.5 + 4 * 1.0)
    assert found.hours == pytest.approx(seconds / 3600)


def test_a_dry_run_says_hours_and_queries(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "MEASURE_S", 0.0)
    said = dry_run(file)
    assert said.exit_code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.stdout.splitlines()]
    [align, distill] = [row for row in rows if len(row) == 7 and row[0] == "adip"]
    assert align[1:5] == ["align", "1", "12", "8"] and distill[1:5] == ["distill", "1", "4", "8"]
    assert f"Extrapolated from the fastest of {MEASURED} steps" in said.stdout
    assert "long for a CPU" not in said.stdout
    embed = CliRunner().invoke(cli, ["teacher", "embed", str(file), "--dry-run"])
    [needed] = re.findall(r"(\d+) image embeddings needed", embed.stdout)
    assert f"Teacher queries: {needed} image embeddings" in said.stdout
    monkeypatch.setattr(report, "LONG_ON_CPU_H", 0.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    long = dry_run(file, "method=[zero_shot, erm]").stdout
    for field in ("distill.steps (4 now)", "student.image_size_px (32 now", "device=cuda"):
        assert field in long
    assert "Other programs are running (load 99.0 on " in long


def test_a_dry_run_says_why_it_has_no_estimate(file: Path) -> None:
    without_data = dry_run(file, "data.root=nowhere")
    assert without_data.exit_code == 0
    assert "No estimate of training time and queries, which need the data: " in without_data.stdout
    assert "nowhere: no such folder" in without_data.stdout
    elsewhere = dry_run(file, "device=cuda:7")
    assert elsewhere.exit_code == 0 and "Teacher queries: " in elsewhere.stdout
    assert "No estimate of training time: device cuda:7" in elsewhere.stdout
    assert "--set device=cpu" in elsewhere.stdout
    nothing = dry_run(file, "method=zero_shot")
    assert "Training time: none" in nothing.stdout
