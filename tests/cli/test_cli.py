"""What a user types, and what comes back: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.cli.main import cli


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a cache of its own and a tiny recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    write_recipe(tmp_path, make_domain_folder(tmp_path / "data"))
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def fails(result: Result, *expected: str, code: int = 1) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for part in expected:
        assert part in result.output


def test_every_command_has_help_with_an_example() -> None:
    assert run("--help").exit_code == 0
    commands = [[name] for name, command in cli.commands.items() if not isinstance(command, click.Group)]
    for group, commands_of in cli.commands.items():
        if isinstance(commands_of, click.Group):
            commands += [[group, name] for name in commands_of.commands]
    assert ["teacher", "embed"] in commands and ["distill"] in commands
    for command in commands:
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert f"vl2v-deploy {' '.join(command)}" in result.output, command


def test_a_negative_price_is_refused() -> None:
    fails(run("teacher", "stats", "--usd-per-1k-queries", "-1"), "--usd-per-1k-queries", code=2)


def test_init_check_distill_export_predict(workplace: Path) -> None:
    result = run("init", "data", "--target", "paint", "--out", "mine.yaml")
    assert result.exit_code == 0, result.output
    assert run("recipe", "check", "mine.yaml").exit_code == 0
    fails(run("init", "data", "--out", "mine.yaml"), "--overwrite")

    result = run("distill", "tiny.yaml", "--set", "distill.steps=2")
    assert result.exit_code == 0, result.output
    assert "OOD" in result.output and "runs/tiny" in result.output
    assert json.loads(Path("runs/tiny/run.json").read_text())["accuracy"]["target"] == "photo"
    fails(run("distill", "tiny.yaml"), "runs/tiny: exists already; pass --overwrite")

    assert run("export").exit_code == 0  # the newest run, to a bundle of its name
    assert run("export").exit_code == 0  # made anew
    result = run("predict", "bundles/tiny", "data/ink/circle/0.png", "data/ink/square/1.png", "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [line["image"] for line in lines] == ["data/ink/circle/0.png", "data/ink/square/1.png"]
    assert all(line["label"] in ("circle", "square") for line in lines)

    Path("broken.png").write_bytes(Path("data/ink/circle/0.png").read_bytes()[:100])
    fails(run("predict", "bundles/tiny", "broken.png"), "broken.png: is damaged or truncated")
    fails(run("predict", "bundles/tiny", "none.png"), "none.png: cannot be read: No such file")
    manifest = Path("bundles/tiny/manifest.json")
    manifest.write_text(manifest.read_text().replace("circle", "circlE", 1))
    fails(run("predict", "bundles/tiny", "data/ink/circle/0.png"), "manifest.json: was changed or damaged")


def test_schema_is_json() -> None:
    assert json.loads(run("recipe", "schema").output)["title"] == "Recipe"


def test_bad_recipes_and_data(workplace: Path) -> None:
    fails(
        run("distill", "tiny.yaml", "--set", "distill.learnig_rate=1", "--set", "align.steps=0"),
        "tiny.yaml: distill.learnig_rate: unknown field; did you mean 'learning_rate'?",
        "tiny.yaml: align.steps",
    )
    fails(run("distill", "none.yaml"), "Error: none.yaml: cannot be read: No such file")
    fails(run("init", "nowhere"), "nowhere: no such folder")
    fails(run("distill", "tiny.yaml", "--out", "tiny.yaml/run"), "Error: ", "tiny.yaml")
    fails(run("distill", "tiny.yaml", "--set", "data.root=nowhere"), "data.root", "nowhere: no such folder")
    fails(run("distill", "tiny.yaml", "--set", "device=cuda:7"), "device cuda:7")
    image = Path("data/ink/circle/0.png")
    image.write_bytes(image.read_bytes()[:100])
    fails(run("distill", "tiny.yaml"), "ink/circle/0.png: is damaged or truncated", "--skip-bad")
    result = run("distill", "tiny.yaml", "--skip-bad", "--set", "distill.steps=1")
    assert result.exit_code == 0, result.output
    assert "1 image(s) that cannot be used were left out" in result.output
    assert len(json.loads(Path("runs/tiny/run.json").read_text())["data"]["skipped"]) == 1
    for other in Path("data/ink/square").iterdir():
        other.unlink()
    fails(run("distill", "tiny.yaml", "--skip-bad", "--out", "runs/b"), "ink/square: holds no usable image")
    assert not Path("runs/b").exists()


def test_export_and_benchmark_of_nothing(workplace: Path) -> None:
    fails(run("export"), "runs: holds no finished run", "vl2v-deploy distill")
    fails(run("export", "data"), "data: holds no run.json")
    fails(run("predict", "bundles/none", "data/ink/circle/0.png"), "no such bundle directory")
    fails(run("benchmark"), "bundles: holds no bundle", "vl2v-deploy export")


def test_trt_without_tensorrt_says_what_to_do(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/run.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    fails(run("export", "--trt"), "tensorrt is not installed", "vl2v-deploy[trt]", "--rtx")
    fails(run("export", "--compute-capability", "8.6"), "goes with --rtx")


def test_a_missing_extra_names_the_pip_command(workplace: Path) -> None:
    # in a process of its own: what it does to the imports must not reach other tests
    code = (
        "import sys\n"
        "sys.modules['timm'] = None\n"
        "sys.argv = ['vl2v-deploy', 'distill', 'tiny.yaml']\n"
        "from vl2v_deploy.__main__ import main\n"
        "main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "Error: timm is not installed; run: pip install 'vl2v-deploy[train]'\n"


def test_a_bug_keeps_its_traceback(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vl2v_deploy.recipe.load_recipe", lambda *_: 1 / 0)
    assert isinstance(run("distill", "tiny.yaml").exception, ZeroDivisionError)


def test_ctrl_c_exits_130_and_leaves_nothing_half_done(workplace: Path) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    # Where tests run in the background of a script, a child inherits that Ctrl-C is ignored.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from vl2v_deploy.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, "distill", "tiny.yaml", "--set", "distill.steps=100000"]
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    metrics = workplace / "runs/tiny.partial/metrics.jsonl"
    deadline = time.monotonic() + 600  # a busy machine takes its time to import torch
    while time.monotonic() < deadline and not (metrics.exists() and "distill" in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=240)
    finally:
        process.kill()  # it must not train on when the test has failed
    assert process.returncode == 130
    assert "Interrupted by SIGINT" in stderr
    again = "distill tiny.yaml --set distill.steps=100000 --resume"
    assert stderr.rstrip().endswith(again)
    assert (workplace / "runs/tiny.partial/checkpoint.pt").is_file()
    assert "Traceback" not in stderr
    assert not (workplace / "runs/tiny").exists()


def test_predict_and_check_do_not_import_torch(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save("x.png")
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from vl2v_deploy.cli.main import cli\n"
        "CliRunner().invoke(cli, ['predict', 'none', 'x.png'])\n"
        "CliRunner().invoke(cli, ['recipe', 'check', 'tiny.yaml'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
