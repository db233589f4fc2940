"""The wheel and the sdist as users get them; the client at the old end of its ranges and on other Pythons."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/client/format_2/bundle.zip"
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
UNREACHABLE = re.compile(
    r"error sending request|dns error|failed to lookup|timed out|Could not connect", re.I
)
LIMIT_S = 300  # of an installation on a busy machine
BUILT = shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info")
CLIENT_MOST_BYTES = 2_000_000  # of the wheel that every application installs
PROGRAM = """
import json, platform, sys
from importlib.metadata import version
from vl2v_deploy.client import Student
bundle, image = sys.argv[1:]
answers = {}
for precision in ("fp32", "fp16", "int8"):
    with Student.load(bundle, precision=precision, threads=1) as student:
        agreement = student.verify().argmax_agreement
        answers[precision] = [student.predict(image).label, agreement]
packages = ("numpy", "pillow", "onnxruntime")
versions = {name: version(name) for name in packages}
print(json.dumps({"answers": answers, "versions": versions, "python": platform.python_version()}))
"""

# What a command does first with a recipe's data, without torch.
LOADING = """
import json, sys
from vl2v_deploy.data.domains import data_fingerprint, load_domains
from vl2v_deploy.data.unlabelled import load_unlabelled, split_held_out
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.recipe import load_recipe
data = load_recipe(sys.argv[1]).data
try:
    domains, unlabelled = load_domains(data), load_unlabelled(data)
    trained, _ = split_held_out(unlabelled, data.unlabelled_held_out)
except VL2VError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(json.dumps([data_fingerprint(domains), trained.fingerprint]))
"""

pytestmark = pytest.mark.slow


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(*command: object, **environment: str) -> Ran:
    """A command outside the source folder, which must not be imported by chance."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd="/",
        env=kept | environment,
        timeout=LIMIT_S,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def uv(*words: object) -> None:
    """Run uv; the test is skipped where it is missing or reaches no registry."""
    if UV is None:
        pytest.skip("uv is not installed: pip install uv")
    ran = run(UV, *words)
    if ran.code and UNREACHABLE.search(ran.err):
        pytest.skip(f"the package registry cannot be reached: {ran.err.strip().splitlines()[-1]}")
    assert ran.code == 0, ran.err


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions: the sdist of each, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "vl2v_deploy", source / "vl2v_deploy", ignore=BUILT)
    demo = shutil.copytree(ROOT / "demo_data", folder / "demo", ignore=BUILT)
    for one in (source, demo):
        uv("build", "--quiet", "--out-dir", folder / "dist", one)
    return folder / "dist"


@pytest.fixture(scope="module")
def oldest(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, its extra cpu, and the oldest of what it takes."""
    [wheel] = built.glob("vl2v_deploy-*.whl")
    environment = tmp_path_factory.mktemp("oldest") / "venv"
    uv("venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin/python"
    ends = [f"{name}>={version}" for name, version in lower_ends().items()]
    lowest = ("--resolution", "lowest-direct")  # of what is named here
    uv("pip", "install", "--quiet", "--python", python, *lowest, f"{wheel}[cpu]", *ends)
    return environment / "bin"


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def claimed_pythons() -> list[str]:
    """The versions of Python in our classifiers, as "3.12"."""
    classifiers = setup_cfg()["metadata"]["classifiers"]
    return re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)


def installed_python(version: str) -> Path | None:
    """An interpreter of this version that starts: beside ours, as pyenv has them, or on the path."""
    candidates = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")  # may be a shim of pyenv, which only complains
    candidates += [Path(on_path)] if on_path else []
    return next((path for path in candidates if run(path, "-c", "").code == 0), None)


def lower_ends() -> dict[str, str]:
    """The oldest version of each of the client's packages, as setup.cfg says it."""
    config = setup_cfg()
    lines = config["options"]["install_requires"] + config["options.extras_require"]["cpu"]
    return dict(re.findall(r"^([\w-]+)>=([\d.]+)", lines, re.MULTILINE))


@pytest.mark.parametrize("package", ["vl2v_deploy", "demo_data/vl2v_deploy_demo"])
def test_a_wheel_holds_every_file_of_its_package_and_no_other(package: str, built: Path) -> None:
    folder = ROOT / package
    [wheel], [_] = built.glob(f"{folder.name}-*.whl"), built.glob(f"{folder.name}-*.tar.gz")
    there = {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == there
    assert {name.rsplit("/", 1)[-1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_client_carries_no_demo_data_and_the_extra_asks_for_them(built: Path) -> None:
    [client], [demo] = built.glob("vl2v_deploy-*.whl"), built.glob("vl2v_deploy_demo-*.whl")
    data = {path.name for path in (ROOT / "demo_data/vl2v_deploy_demo").iterdir() if path.suffix != ".py"}
    assert {"emojidg.zip", "emojidg_unlabelled.zip", "emojidg_teacher.safetensors"} <= data
    packed = zipfile.ZipFile(client)
    assert {Path(name).name for name in packed.namelist()} & data == set()
    assert client.stat().st_size < CLIENT_MOST_BYTES < demo.stat().st_size
    [metadata] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
    version = demo.name.split("-")[1]
    asked = f'Requires-Dist: vl2v-deploy-demo=={version}; extra == "demo"'
    assert asked in packed.read(metadata).decode().splitlines()
    assert (ROOT / "demo_data/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_a_builtin_recipe_loads_with_both_wheels_and_tells_what_lacks_without(
    built: Path, oldest: Path, tmp_path: Path
) -> None:
    [demo] = built.glob("vl2v_deploy_demo-*.whl")
    install = ("pip", "install", "--quiet", "--python", oldest / "python", "--target")
    reading = ("pydantic>=2.11,<3", "PyYAML>=6.0.2,<7", "platformdirs>=4.3,<5", "rich>=14,<16")
    uv(*install, tmp_path / "recipes", *reading)
    uv(*install, tmp_path / "demo", "--no-deps", demo)
    command = (oldest / "python", "-c", LOADING, ROOT / "recipes/quickstart.yaml")
    cache = {"VL2V_DEPLOY_CACHE": str(tmp_path / "cache")}
    without = run(*command, PYTHONPATH=str(tmp_path / "recipes"), **cache)
    assert without.code == 1 and not without.out
    [line] = without.err.splitlines()
    assert line.startswith("MissingExtra: ") and "builtin:emojidg is " in line
    assert "pip install 'vl2v-deploy[demo]'" in line and "pip install ./demo_data" in line
    paths = os.pathsep.join(str(tmp_path / name) for name in ("recipes", "demo"))
    there = run(*command, PYTHONPATH=paths, **cache)
    assert there.code == 0, there.err
    # The same data as in the committed run, to the last byte.
    recorded = json.loads((ROOT / "benchmarks/results/quickstart_run.json").read_text())["data"]
    assert json.loads(there.out) == [recorded["fingerprint"], recorded["unlabelled"]["fingerprint"]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A golden sample of the kept bundle."""
    with zipfile.ZipFile(KEPT) as bundle:
        return Path(bundle.extract("relabelled/golden/00.png", tmp_path))


def test_the_client_answers_at_the_old_end_of_its_ranges(oldest: Path, image: Path) -> None:
    ran = run(oldest / "python", "-W", "error", "-c", PROGRAM, KEPT, image)
    assert ran.code == 0, ran.err
    there = json.loads(ran.out)
    assert "Pillow 10.4.0 has known holes" in ran.err
    ends = lower_ends()
    assert there["versions"].keys() == ends.keys() == {"numpy", "pillow", "onnxruntime"}
    for name, version in there["versions"].items():
        assert f"{version}.".startswith(f"{ends[name]}."), (name, version)
    here = run(sys.executable, "-c", PROGRAM, KEPT, image, PYTHONPATH=str(ROOT))
    assert there["answers"] == json.loads(here.out)["answers"]
    assert all(agreement == 1.0 for _, agreement in there["answers"].values())


@pytest.mark.parametrize("claimed", claimed_pythons())
def test_the_client_answers_on_each_python_that_is_claimed(
    built: Path, claimed: str, image: Path, tmp_path: Path
) -> None:
    """With the newest packages that this Python has wheels of, and no warning."""
    found = installed_python(claimed)
    if found is None:
        pytest.skip(f"no Python {claimed} is installed here")
    [wheel] = built.glob("vl2v_deploy-*.whl")
    python = tmp_path / "venv/bin/python"
    uv("venv", "--quiet", "--python", found, tmp_path / "venv")
    uv("pip", "install", "--quiet", "--only-binary", ":all:", "--python", python, f"{wheel}[cpu]")
    ran = run(python, "-W", "error", "-c", PROGRAM, KEPT, image)
    assert ran.code == 0, ran.err
    there = json.loads(ran.out)
    assert there["python"].startswith(f"{claimed}.")
    here = run(sys.executable, "-c", PROGRAM, KEPT, image, PYTHONPATH=str(ROOT))
    assert there["answers"] == json.loads(here.out)["answers"]
    assert all(agreement == 1.0 for _, agreement in there["answers"].values())
    checked = run(tmp_path / "venv/bin/vl2v-deploy", "doctor", "--json")
    assert checked.code == 0, checked.out + checked.err
    assert {found["level"] for found in json.loads(checked.out)["findings"]} <= {"ok", "note", "warning"}


def test_without_click_there_are_doctor_and_version(oldest: Path) -> None:
    version = run(oldest / "python", "-m", "vl2v_deploy", "--version")
    assert (version.code, version.out) == (0, "vl2v-deploy, version 0.1.0\n"), version.err
    ran = run(oldest / "vl2v-deploy", "doctor", "--json")
    assert ran.code == 0, ran.out + ran.err
    report = json.loads(ran.out)
    assert not report["broken"]
    extras = {found["facts"]["extra"]: found for found in report["findings"] if found["check"] == "extras"}
    assert "torch" in extras["train"]["facts"]["missing"] and "gpu" not in extras
    assert "pip install 'vl2v-deploy[train]'" in extras["train"]["fix"]
    assert any("has known holes" in found["what"] for found in report["findings"])
    assert any(found["what"].startswith("onnxruntime 1.18.") for found in report["findings"])
    assert "unknown" not in {found["level"] for found in report["findings"]}, report
    plain = run(oldest / "vl2v-deploy", "doctor")
    assert "extra train is not installed" in plain.out and "\nNothing is broken; warnings: " in plain.out
    other = run(oldest / "vl2v-deploy", "predict", "x", "y")
    assert other.code == 1 and "pip install 'vl2v-deploy[train,cpu]'" in other.err and not other.out


def test_click_alone_makes_the_command_line_whole(oldest: Path, image: Path, tmp_path: Path) -> None:
    target = tmp_path / "click"
    uv("pip", "install", "--quiet", "--python", oldest / "python", "--target", target, "click>=8.2,<9")
    helped = run(oldest / "vl2v-deploy", "--help", PYTHONPATH=str(target))
    assert helped.code == 0 and "doctor" in helped.out, helped.err
    answer = run(oldest / "vl2v-deploy", "predict", KEPT, image, "--json", PYTHONPATH=str(target))
    assert answer.code == 0 and json.loads(answer.out)["label"] in ("line", "circle", "star"), answer.err
