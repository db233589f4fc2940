"""examples/cpp: built against OpenVINO's wheel, it gives Python's answers in every format that it reads."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import cannot
from tests.helpers.pictures import pictures
from vl2v_deploy.client import Student, open_bundle
from vl2v_deploy.client.golden import golden_of

EXAMPLE = Path(__file__).parents[2] / "examples/cpp"
TOOLS = ("g++", "cmake", "pkg-config")
LIBRARIES = {  # pkg-config's name -> Debian's package
    "libjpeg": "libjpeg-dev",
    "libpng": "libpng-dev",
    "libwebp": "libwebp-dev",
    "libwebpdemux": "libwebp-dev",
    "nlohmann_json": "nlohmann-json3-dev",
}
# Of a probability, OpenVINO's from onnxruntime's. The pixels are the same: 1e-6 was measured in fp32. In int8
# each runtime rounds between layers in its own way: 0.02 was measured.
ALIKE = {"fp32": 1e-5, "int8": 0.05}
ORIENTATION = 0x0112

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled by the commands that its CMakeLists.txt gives."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        cannot(f"{missing[0]} is not installed")
    for library, package in LIBRARIES.items():
        if subprocess.run(["pkg-config", "--exists", library], check=False).returncode:
            cannot(f"{package} is not installed")
    openvino = importlib.util.find_spec("openvino")
    if openvino is None or openvino.origin is None:
        cannot("openvino is not installed")
    build = tmp_path_factory.mktemp("cpp")
    where = f"-DOpenVINO_DIR={Path(openvino.origin).parent / 'cmake'}"
    for words in (
        ("cmake", "-S", EXAMPLE, "-B", build, "-DCMAKE_BUILD_TYPE=Release", where),
        ("cmake", "--build", build),
    ):
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stderr, done.stderr
    return build / "classify"


@pytest.fixture(scope="module")
def bundle(quickstart: Path) -> Path:
    return quickstart / "bundles/quickstart"


def run(program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, timeout=600, check=False
    )


def answers(program: Path, *words: object) -> list[dict[str, Any]]:
    done = run(program, "--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_answers_as_python(precision: str, program: Path, bundle: Path, tmp_path: Path) -> None:
    images = {name: path for name, path in pictures(tmp_path / "pictures").items() if path.suffix != ".gif"}
    found = answers(program, "--precision", precision, bundle, *images.values())
    with Student.load(bundle, precision=precision) as student:
        for (name, path), answer in zip(images.items(), found, strict=True):
            expected = student.predict(path)
            assert (answer["image"], answer["label"]) == (str(path), expected.label), name
            assert abs(answer["probability"] - expected.probability) < ALIKE[precision], name
            if precision == "fp32":
                assert answer["abstained"] == expected.abstained, name


def test_the_golden_samples(program: Path, bundle: Path) -> None:
    opened = open_bundle(bundle)
    golden = golden_of(opened)
    powers = np.exp(golden.arrays["logits"].astype(np.float64))
    shares = powers / powers.sum(axis=1, keepdims=True)
    for answer, expected in zip(answers(program, bundle, *golden.paths), shares, strict=True):
        assert answer["label"] == opened.classes[int(expected.argmax())]
        assert answer["probability"] == pytest.approx(expected.max(), abs=ALIKE["fp32"])


def test_every_orientation_in_every_format(program: Path, bundle: Path, tmp_path: Path) -> None:
    picture = Image.open(pictures(tmp_path / "pictures")["png"]).convert("RGB")
    files = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for kind, options in (("jpeg", {"quality": 90}), ("png", {}), ("webp", {"lossless": True})):
            files.append(tmp_path / f"{orientation}.{kind}")
            picture.save(files[-1], exif=exif, **options)
    found = answers(program, bundle, *files)
    with Student.load(bundle, precision="fp32") as student:
        expected = [student.predict(file).probability for file in files]
    assert [each["probability"] for each in found] == pytest.approx(expected, abs=ALIKE["fp32"])
    # an image that is turned is another image to this student: else the comparison would show nothing
    assert np.ptp(expected) > 100 * ALIKE["fp32"]


def test_it_answers_in_words(program: Path, bundle: Path, tmp_path: Path) -> None:
    image = pictures(tmp_path / "pictures")["png"]
    with Student.load(bundle, precision="fp32") as student:
        expected = student.predict(image)
    assert not expected.abstained
    line = f"{image}: {expected.label}, {100 * expected.probability:.1f} %\n"
    assert run(program, bundle, image).stdout == line


def test_errors_are_one_line(program: Path, bundle: Path, tmp_path: Path) -> None:
    noise, short = tmp_path / "noise.png", tmp_path / "short.jpg"
    noise.write_bytes(b"no image")
    whole = pictures(tmp_path / "pictures")["jpeg"].read_bytes()
    short.write_bytes(whole[: len(whole) // 2])
    cut, cmyk = tmp_path / "cut.png", tmp_path / "cmyk.jpg"
    cut.write_bytes((tmp_path / "pictures/png.png").read_bytes()[:-100])
    Image.new("CMYK", (40, 40)).save(cmyk)
    other = tmp_path / "other"
    other.mkdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"preprocessing": "crop"}))
    for words, expected in (
        ((bundle,), "Error: usage: classify"),
        ((tmp_path, noise), f"Error: {tmp_path}: holds no manifest.json"),
        ((other, noise), f"Error: {other}: asks for a preprocessing that this program does not have: crop"),
        ((bundle, noise), f"Error: {noise}: cannot be used: is no JPEG, PNG or WebP"),
        ((bundle, short), f"Error: {short}: cannot be used: ends too early"),
        ((bundle, cut), f"Error: {cut}: cannot be used: "),
        ((bundle, cmyk), f"Error: {cmyk}: cannot be used: "),
        ((bundle, tmp_path / "no.png"), f"Error: {tmp_path / 'no.png'}: cannot be used: cannot be opened"),
        (("--precision", "fp64", bundle, noise), f"Error: {bundle}: holds no fp64 file; it has: fp16, fp32"),
    ):
        done = run(program, *words)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert done.stderr.startswith(expected), done.stderr
