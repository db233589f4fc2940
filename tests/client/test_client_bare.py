"""The client in an environment that holds numpy, Pillow and onnxruntime only, installed as a user would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.client import Student
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from importlib.metadata import distributions
from importlib.util import find_spec
from vl2v_deploy.client import Student
bundle, image = sys.argv[1:]
student = Student.load(bundle)
prediction = student.predict(image)
assert student.verify().argmax_agreement == 1.0
heavy = {"torch", "timm", "open_clip", "click", "pydantic", "onnx", "yaml", "rich"} & set(sys.modules)
print(json.dumps({
    "label": prediction.label,
    "probability": prediction.probability,
    "heavy": sorted(heavy),
    "demo": find_spec("vl2v_deploy_demo") is not None,
    "installed": sorted(d.name.lower() for d in distributions()),
}))
"""


def install(python: Path, source: Path) -> None:
    """`pip install .[cpu]` of a copy without earlier builds, by uv where there is one."""
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(
        ROOT / "vl2v_deploy", source / "vl2v_deploy", ignore=shutil.ignore_patterns("__pycache__")
    )
    requirement = f"{source}[cpu]"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", str(python), requirement]
    else:
        command = [str(python), "-m", "pip", "install", "--quiet", requirement]
    subprocess.run(command, check=True)


@pytest.mark.slow
def test_client_in_a_bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(write_recipe(tmp_path, make_domain_folder(tmp_path / "data")))
    [run] = distill_recipe(recipe, tmp_path / "run")
    bundle = export_run(run, tmp_path / "bundle")
    image = tmp_path / "data/photo/circle/0.png"
    here = Student.load(bundle).predict(image)

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    (tmp_path / "source").mkdir()
    install(python, tmp_path / "source")
    ran = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM, bundle, image],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    there = json.loads(ran.stdout)
    assert there["label"] == here.label
    assert there["probability"] == pytest.approx(here.probability, abs=1e-5)
    assert there["heavy"] == []
    assert not there["demo"]
    # all that pip brought: ourselves, the three packages and what onnxruntime itself asks for
    assert set(there["installed"]) & {"torch", "click", "pydantic", "onnx", "rich", "pyyaml"} == set()
    assert {"numpy", "pillow", "onnxruntime", "vl2v-deploy"} <= set(there["installed"])

    command = subprocess.run(
        [tmp_path / "venv/bin/vl2v-deploy", "--help"], capture_output=True, text=True, check=False
    )
    assert command.returncode == 1
    assert "pip install 'vl2v-deploy[train,cpu]'" in command.stderr
    assert "Traceback" not in command.stderr
