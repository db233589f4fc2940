"""A folder with copies, odd names and odd files from `init` to the benchmark: nothing is silent."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.sources import open_sources
from vl2v_deploy.recipe import load_recipe


def run(*args: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result


def dirty(data: Path) -> Path:
    """A class with markup in its name, copies, a file name of any bytes, a file that is no image."""
    for domain in ("ink", "paint", "photo"):
        (data / domain / "circle").rename(data / domain / "[red]circle")
    folder = data / "ink/[red]circle"
    for number in range(3):
        shutil.copyfile(data / f"photo/[red]circle/{number}.png", folder / f"copy-{number}.png")
    shutil.copyfile(data / "ink/square/0.png", data / "paint/[red]circle/wrong.png")
    (folder / "0.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / "1.png").rename(folder / "no suffix")
    (folder / "notes.txt").write_text("no image")
    return data


def test_leaks_and_names_from_init_to_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    tiny = write_recipe(tmp_path, dirty(make_domain_folder(tmp_path / "data")))
    odd = Path("my [bold] run")
    started = run("init", "data", "--target", "photo", "--out", "mine.yaml", "--skip-bad")
    assert "1 .txt" in started.output and "copies in another class" in started.output
    assert "vl2v-deploy distill mine.yaml --skip-bad" in started.output
    assert yaml.safe_load(Path("mine.yaml").read_text())["data"]["split"]["duplicates"] == "one_side"

    done = run("distill", tiny, "--out", odd, "--skip-bad", "--set", "distill.steps=2")
    assert "1 .txt" in done.output and "copies in another class" in done.output
    assert "export 'my [bold] run'" in done.output
    data = json.loads((odd / "run.json").read_text())["data"]
    copies = data["copies"]
    assert copies["images"] == 8 and len(copies["two_labels"]) == 2 and not copies["allowed"]
    held_out = copies["held_out"]  # a copy on the test side is measured, and learned from by nobody
    assert held_out and set(held_out) <= {f"ink/[red]circle/copy-{number}.png" for number in range(3)}
    said = f"photo: {len(held_out)} image(s) of the sources are copies"
    assert said in done.output and held_out[0] in done.output
    assert data["unused"] == ["ink/[red]circle/notes.txt"] and len(data["skipped"]) == 2
    assert sum(data["images"]["ink"].values()) == 22 - len(held_out)  # 23 files, one of two labels

    bundle = Path("a bundle[/x]")  # rich takes [/x] for the end of a tag
    bundle.parent.mkdir()
    exported = run("export", odd, "--out", bundle)
    assert "inspect 'a bundle[/x]'" in exported.output
    assert json.loads((bundle / "manifest.json").read_text())["run"]["data"]["copies"]["images"] == 8
    inspected = run("inspect", bundle).output
    assert "a bundle[/x]" in inspected and "[red]circle" in inspected
    assert "[red]circle" in run("predict", bundle, "data/ink/[red]circle/no suffix").output

    quick = ("--seconds", "0.2", "--batch", "1", "--threads", "1", "--engines", "onnxruntime:fp32")
    run("benchmark", bundle, "--skip-bad", "--out", "report", *quick)
    warnings = " ".join(json.loads(Path("report/report.json").read_text())["results"]["warnings"])
    assert said in warnings and "1 .txt" in warnings


def test_leaks_are_named_of_each_folder_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(write_recipe(tmp_path, make_domain_folder(tmp_path / "data")))
    sources = open_sources(recipe, World(), skip_bad=False)
    other = make_domain_folder(tmp_path / "other")
    (other / "ink/square/notes.txt").write_text("no image")
    assert ".txt" not in capsys.readouterr().err
    for target in ("photo", "ink"):
        sources.data(recipe.data.model_copy(update={"root": str(other), "target": target}))
    assert capsys.readouterr().err.count("1 .txt") == 1  # not again for each target
