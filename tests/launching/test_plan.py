"""Each run as a command: exactly the run that the whole recipe or sweep has; what is missing is named."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.run_folders import write_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.protocol import planned_runs
from vl2v_deploy.launching.plan import missing_runs, run_commands, write_plan
from vl2v_deploy.models.run_directory import CHECKPOINT
from vl2v_deploy.recipe import load_recipe


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A recipe of 2 methods x 3 targets x 2 trials, with settings of one method alone."""
    data = make_domain_folder(tmp_path / "data")
    tree = {
        "data": {"root": str(data), "target": "each", "split": {"seed": 5}},
        "teacher": {"model": "ViT-B-32", "pretrained": "openai"},
        "student": {"backbone": "resnet18"},
        "method": ["erm", "adip"],
        "per_method": {"erm": {"distill": {"learning_rate": 0.25}, "label": "it's ERM"}},
        "trials": 2,
        "seed": 3,
    }
    file = tmp_path / "a study.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def printed(*words: str | Path) -> list[list[str]]:
    result = CliRunner().invoke(cli, [*map(str, words), "--print-commands"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [shlex.split(line) for line in result.output.splitlines()]


def recipe_of(words: list[str]) -> tuple[Path, object]:
    """The one run that a printed command makes."""
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    out = Path(words[words.index("--out") + 1])
    [run] = planned_runs(load_recipe(words[2], overrides), out, [])
    return run.path, run.recipe


def test_jobs_printed_for_a_recipe_are_its_runs(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs of it"
    commands = printed("distill", study, "--out", out, "--set", "student.image_size_px=64")
    recipe = load_recipe(study, ["student.image_size_px=64"])
    domains = sorted(path.name for path in (tmp_path / "data").iterdir())
    whole = planned_runs(recipe, out, domains)
    assert len(commands) == 12
    assert [recipe_of(words) for words in commands] == [(run.path, run.recipe) for run in whole]
    assert all(words[:2] == ["vl2v-deploy", "distill"] and words[-1] == "--resume" for words in commands)


def test_jobs_printed_for_a_sweep_are_its_runs(study: Path, tmp_path: Path) -> None:
    from vl2v_deploy.distillation.sweep import swept_recipes

    out = tmp_path / "sweep"
    grid = ["method=erm,adip", "per_method={}", "trials=2", "distill.steps=3,4", "data.target=photo"]
    commands = printed("sweep", study, "--out", out, *(w for each in grid for w in ("--set", each)))
    runs = [
        run for recipe, folder in swept_recipes(study, grid, out) for run in planned_runs(recipe, folder, [])
    ]
    assert len(commands) == 8
    assert [recipe_of(words) for words in commands] == [(run.path, run.recipe) for run in runs]


def test_jobs_that_are_missing_are_named_and_the_others_in_the_table(tmp_path: Path, study: Path) -> None:
    out = tmp_path / "out"
    commands = run_commands(study, [(["method=[adip,erm]", "trials=1"], out)], out)
    write_plan(commands, out)
    assert len(missing_runs([out])) == len(commands) == 6
    write_run(commands[0].path, ood=0.5)
    begun = commands[1].path.with_name(f"{commands[1].path.name}.partial")
    begun.mkdir(parents=True)
    (begun / CHECKPOINT).touch()
    result = CliRunner().invoke(cli, ["table", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    missing = [line for line in result.stderr.splitlines() if line.startswith("Missing: ")]
    assert len(missing) == 5 and not any(f"{commands[0].path}:" in line for line in missing)
    assert all(any(str(each.path) in line for line in missing) for each in commands[1:])
    assert [line for line in missing if line.endswith("has a checkpoint")] == [
        f"Missing: {commands[1].path}: has a checkpoint"
    ]
    assert "OOD" in result.stdout
    (out / "planned_runs.json").write_text("[]")
    result = CliRunner().invoke(cli, ["table", str(out)])
    assert result.exit_code == 1 and "planned_runs.json" in result.output


@pytest.mark.parametrize(
    "options",
    [
        ["--jobs", "2", "--overwrite"],
        ["--jobs", "2", "--launcher", "local"],
        ["--partition", "gpu"],
        ["--launcher", "local", "--mem-gb", "2"],
        ["--launcher", "slurm", "--slurm", "account"],
    ],
)
def test_jobs_with_options_that_do_not_fit_are_refused(
    study: Path, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["distill", str(study), "--out", str(out), *options])
    assert result.exit_code == 1 and result.output.startswith("Error: --"), result.output
    assert not out.exists()


def test_jobs_through_a_launcher_need_its_extra(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    result = CliRunner().invoke(
        cli, ["distill", str(study), "--out", str(tmp_path / "o"), "--launcher", "slurm"]
    )
    assert result.exit_code == 1
    assert "vl2v-deploy[cluster]" in result.output and len(result.output.splitlines()) == 1
    assert json.loads((tmp_path / "o/planned_runs.json").read_text())["format"] == 1


@pytest.mark.parametrize("option", ["--print-commands", "--jobs=2", "--launcher=local"])
def test_processes_of_torchrun_start_no_runs_each(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(cli, ["distill", str(study), "--out", str(tmp_path / "out"), option])
    assert result.exit_code == 1 and "not in torchrun" in result.output
    assert not (tmp_path / "out").exists()
