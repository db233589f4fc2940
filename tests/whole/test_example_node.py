"""examples/node: the same labels as Python's, from a bundle and from a page, in every format."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.browser import cannot
from tests.helpers.pictures import pictures
from tests.helpers.quickstart import RUNTIME
from vl2v_deploy.client import Student

EXAMPLE = Path(__file__).parents[2] / "examples/node"
# sharp decodes to Pillow's pixels, but whole those JPEGs that Python decodes at a fraction of their size.
ALIKE, REDUCED = 1e-6, 0.02  # of a probability; 0.004 was measured

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(quickstart: Path) -> tuple[Path, Path]:
    """Bundle and page."""
    if not (EXAMPLE / "node_modules/onnxruntime-node").is_dir():
        cannot("the example's packages are not installed: npm ci --prefix examples/node --ignore-scripts")
    if not RUNTIME.is_dir():
        cannot("onnxruntime-web is not installed: npm ci --prefix tests/web")
    return quickstart / "bundles/quickstart", quickstart / "site"


def classify(*arguments: object) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node")
    if node is None:
        cannot("Node.js is not installed")
    command = [node, str(EXAMPLE / "classify.mjs"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_labels_as_python(precision: str, made: tuple[Path, Path], tmp_path: Path) -> None:
    images = pictures(tmp_path / "pictures")
    student = Student.load(made[0], precision=precision)
    for folder in made:
        done = classify("--json", "--precision", precision, folder, *images.values())
        assert done.returncode == 0, done.stderr
        for (name, path), line in zip(images.items(), done.stdout.splitlines(), strict=True):
            expected, found = student.predict(path), json.loads(line)
            assert found["image"] == str(path)
            assert (found["label"], found["abstained"]) == (expected.label, expected.abstained), name
            bound = REDUCED if name.startswith("jpeg photo") else ALIKE
            assert abs(found["probability"] - expected.probability) < bound, name


def test_it_answers_in_words(made: tuple[Path, Path], tmp_path: Path) -> None:
    image = pictures(tmp_path / "pictures")["png"]
    done = classify(made[0], image)
    expected = Student.load(made[0], precision="fp32").predict(image)
    assert not expected.abstained
    assert done.stdout == f"{image}: {expected.label}, {100 * expected.probability:.1f} %\n"


def test_errors_are_one_line(made: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for arguments, expected in (
        ((made[0],), "Error: usage: node classify.mjs"),
        ((tmp_path, broken), f"Error: {tmp_path}: holds neither manifest.json nor student.json"),
        ((made[0], broken), f"Error: {broken}: cannot be used: "),
        (
            ("--precision", "fp64", made[0], broken),
            f"Error: {made[0]}: holds no fp64 file; it has: fp32, fp16, int8",
        ),
    ):
        done = classify(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith(expected)
        assert done.stderr.count("\n") == 1
