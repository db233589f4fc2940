"""A student loaded: which file runs and why, zipped bundles, copies in other processes, its own check."""

from __future__ import annotations

import gc
import io
import json
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.tiny_bundle import add_precision, change_manifest, make_bundle
from vl2v_deploy.client import Limits, Student, cpu, session
from vl2v_deploy.client.bundle import open_bundle
from vl2v_deploy.client.checksums import CHECKSUMS
from vl2v_deploy.client.preprocess import FULL_DECODING, pixels_from_source
from vl2v_deploy.client.session import choose_precision
from vl2v_deploy.errors import BundleError, ClosedError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student in fp32, fp16 and int8."""
    made = make_bundle(tmp_path_factory.mktemp("client"))
    add_precision(made, "fp16")
    add_precision(made, "int8")
    return made


@pytest.fixture
def image(bundle: Path) -> Path:
    return sorted((bundle / "golden").glob("*.png"))[0]


@pytest.fixture
def unpacked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that zip files are unpacked in, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("has", "provider", "instruction", "expected"),
    [
        (("fp32", "fp16", "int8"), CPU, "avx512_vnni", "int8"),
        (("fp32", "fp16", "int8"), CPU, None, "fp32"),
        (("fp32", "fp16", "int8-symmetric"), CPU, "asimddp", "fp32"),
        (("fp32", "fp16", "int8"), CUDA, "avx512_vnni", "fp16"),
        (("fp32", "fp16", "int8"), TENSORRT, None, "fp16"),
        (("fp32", "int8"), CUDA, "avx512_vnni", "fp32"),
        (("fp32", "fp16", "int8"), "CoreMLExecutionProvider", "asimddp", "fp32"),
    ],
)
def test_the_rule_of_precision(
    has: tuple[str, ...],
    provider: str,
    instruction: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "int8_instruction", lambda: instruction)
    chosen, why = choose_precision(has, provider, proven=True)
    assert chosen == expected
    assert why.startswith(f"{expected}: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx_vnni\n", "avx_vnni"),
        ("flags\t\t: fpu avx2 my_avx_vnni_not\n", "avx2"),
        ("flags\t\t: fpu sse4_2 avx my_avx2\n", None),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n", "asimddp"),
        ("vmx flags\t: avx512_vnni\nbugs\t\t: avx_vnni\n", None),
        ("", None),
    ],
)
def test_instructions_are_read_from_cpuinfo(
    text: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("sys.platform", "linux")
    assert cpu.int8_instruction.__wrapped__() == expected
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")
    assert cpu.int8_instruction.__wrapped__() is None


def test_the_runtime_is_in_every_answer(bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "int8_instruction", lambda: "avx_vnni")
    with Student.load(bundle, threads=1) as student:
        assert (student.precision, student.provider) == ("int8", CPU)
        assert student.runtime.threads == 1
        assert "avx_vnni" in student.runtime.why
        assert student.predict(image).runtime == student.runtime
        assert [p.runtime for p in student.stream([image])] == [student.runtime]
    asked = Student.load(bundle, precision="fp16", providers=[("cpu", {})], threads=1)
    assert (asked.precision, asked.runtime.why) == ("fp16", "as asked for")
    with pytest.raises(ValueError, match="threads 0: expected at least 1"):
        Student.load(bundle, threads=0)
    with pytest.raises(BundleError, match="holds no int4 file"):
        Student.load(bundle, precision="int4")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_student_checks_itself(bundle: Path, precision: str, tmp_path: Path) -> None:
    student = Student.load(bundle, precision=precision)
    found = student.verify()
    assert found.passed and found.problems == () and found.samples == 8 and found.runtime == student.runtime
    session_run = student._session.run

    class Wrong:
        def run(self, *arguments: object) -> list[np.ndarray]:
            logits, embedding = session_run(*arguments)
            return [logits + 500, embedding]

    student._session = Wrong()
    found = student.verify()
    assert not found.passed
    from_export, from_torch = found.problems
    assert "from export (allowed" in from_export and "from torch (allowed" in from_torch


def test_tolerances_between_machines_are_the_bundle_s(bundle: Path, tmp_path: Path) -> None:
    parity = open_bundle(bundle).file("fp32").parity
    assert parity.elsewhere == parity.tolerance  # as they are for fp32, in the table of tolerances
    copy = tmp_path / "stricter"
    shutil.copytree(bundle, copy)

    def make_stricter(manifest: dict[str, Any]) -> None:
        manifest["precisions"]["fp32"]["parity"]["elsewhere"] |= {"logit_share": -0.1}

    change_manifest(copy, make_stricter)
    problems = Student.load(copy, precision="fp32").verify().problems
    assert "from export (allowed -" in problems[0]


def test_copies_go_to_other_processes(bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    student = Student.load(
        bundle.name, precision="fp16", threads=1, limits=Limits(max_pixels=1000), providers="auto"
    )
    monkeypatch.chdir("/")  # a worker may have another working directory
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(student.predict, image).result()
    assert there == student.predict(image)
    copy = pickle.loads(pickle.dumps(student))
    assert copy.runtime == student.runtime and copy.limits == student.limits
    assert copy.bundle.path == bundle


def zipped(bundle: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(bundle.rglob("*")):
            archive.write(file, f"{top}{file.relative_to(bundle).as_posix()}")
    return path


@pytest.mark.parametrize("top", ["", "tiny/"])
def test_a_zipped_bundle_is_a_bundle(
    bundle: Path, image: Path, tmp_path: Path, top: str, unpacked_to: Path
) -> None:
    path = zipped(bundle, tmp_path / "tiny.zip", top)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{top}not-listed.txt", "left where it is")
        archive.writestr("__MACOSX/x", "as macOS does")
    here = Student.load(bundle).predict(image)
    with Student.load(path) as student:
        [folder] = unpacked_to.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        assert names == {*open_bundle(bundle).manifest.files, CHECKSUMS} | {"manifest.json"}
        assert student.predict(image) == here
        assert student.verify().passed
        copy = pickle.loads(pickle.dumps(student))
        assert len(list(unpacked_to.iterdir())) == 2
    assert len(list(unpacked_to.iterdir())) == 1
    assert copy.predict(image) == here
    with pytest.raises(ClosedError):
        student.verify()
    del copy  # forgotten, not closed
    gc.collect()
    assert list(unpacked_to.iterdir()) == []


def add(name: str, data: bytes = b"x", mode: int | None = None) -> Callable[[zipfile.ZipFile], None]:
    def change(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("entry")
        entry.filename = name  # ZipInfo() would mend some names
        entry.create_system = 3
        if mode is not None:
            entry.external_attr = mode << 16
        archive.writestr(entry, data)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(add("../evil"), "leads out of the bundle", id="parent"),
        pytest.param(add("golden/../../evil"), "leads out of the bundle", id="parent within"),
        pytest.param(add("/evil"), "not a plain relative name", id="absolute"),
        pytest.param(add("C:/evil"), "not a plain relative name", id="drive"),
        pytest.param(add("..\\evil"), "not a plain relative name", id="backslash"),
        pytest.param(add("link", b"/etc/passwd", stat.S_IFLNK | 0o777), "a link or device", id="link"),
        pytest.param(add("pipe", b"", stat.S_IFIFO | 0o666), "a link or device", id="pipe"),
        pytest.param(add("other/SHA256SUMS"), "found 2 SHA256SUMS", id="two bundles"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_archives_are_refused(
    bundle: Path,
    tmp_path: Path,
    unpacked_to: Path,
    change: Callable[[zipfile.ZipFile], None],
    reason: str,
) -> None:
    path = zipped(bundle, tmp_path / "tiny.zip")
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    with pytest.raises(BundleError, match=f"tiny.zip: .*{reason}"):
        Student.load(path)
    assert list(unpacked_to.iterdir()) == []
    assert not list(tmp_path.parent.rglob("evil"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(bundle: Path, tmp_path: Path, unpacked_to: Path) -> None:
    path = zipped(bundle, tmp_path / "tiny.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("manifest.json", "{}")
    with pytest.raises(BundleError, match=r"'manifest\.json': is in it twice"):
        Student.load(path)


def test_bombs_and_damage_in_archives(bundle: Path, tmp_path: Path, unpacked_to: Path) -> None:
    path = zipped(bundle, tmp_path / "tiny.zip")
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert Student.load(path, limits=Limits(max_bundle_bytes=size)).precision
    with pytest.raises(BundleError, match=rf"{size} bytes unpacked, more than {size - 1}: refused"):
        Student.load(path, limits=Limits(max_bundle_bytes=size - 1))
    packed = path.read_bytes()
    lied = tmp_path / "lied.zip"
    real = (bundle / "student.onnx").stat().st_size
    with zipfile.ZipFile(path) as archive:
        where = archive.start_dir
    # the central directory says that the largest file is one byte long
    lied.write_bytes(packed[:where] + packed[where:].replace(real.to_bytes(4, "little"), b"\1\0\0\0"))
    with pytest.raises(BundleError, match=r"lied\.zip: "):
        Student.load(lied)
    flipped = bytearray(packed)
    flipped[packed.index((bundle / "manifest.json").read_bytes()) + 9] ^= 1
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(BundleError, match=r"flipped\.zip: .*CRC"):
        Student.load(tmp_path / "flipped.zip")
    for name, data, reason in [
        ("cut.zip", packed[: len(packed) // 2], "is not a zip file that can be read"),
        ("text.zip", b"no zip", "is not a zip file that can be read"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BundleError, match=f"{name}: {reason}"):
            Student.load(tmp_path / name)
    gc.collect()
    assert list(unpacked_to.iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_methods_that_unpack_without_a_bound_are_refused(
    bundle: Path, tmp_path: Path, unpacked_to: Path, method: int
) -> None:
    path = zipped(bundle, tmp_path / "tiny.zip")
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    with pytest.raises(BundleError, match=r"tiny\.zip: entry 'zeros': is not compressed by deflate"):
        Student.load(path)
    assert list(unpacked_to.iterdir()) == []


def test_hashes_in_archives_are_checked(bundle: Path, tmp_path: Path, unpacked_to: Path) -> None:
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(zipped(bundle, tmp_path / "good.zip")) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            data = b"" if name.endswith("/") else good.read(name)
            bad.writestr(name, data + b" " if name == "recipe.yaml" else data)
    with pytest.raises(BundleError, match=r"tiny\.zip/recipe\.yaml: was changed or damaged"):
        Student.load(path)
    assert list(unpacked_to.iterdir()) == []
    with pytest.raises(BundleError, match=r"is a file; unzip it"):
        open_bundle(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda found: found["precisions"]["fp32"].update(file="../evil.onnx"),
            "'../evil.onnx' is not in SHA256",
        ),
        (lambda found: found.update(classes=None), "classes: expected a list, got null"),
        (lambda found: found.update(precisions=["fp32"]), "precisions: expected an object"),
        (lambda found: found.update(precisions={}), "precisions: holds no fp32 file"),
    ],
)
def test_a_manifest_names_only_files_that_were_checked(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    shutil.copytree(bundle, tmp_path / "hostile")
    shutil.copyfile(bundle / "student.onnx", tmp_path / "evil.onnx")
    change_manifest(tmp_path / "hostile", change)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{reason}"):
        Student.load(tmp_path / "hostile")


def test_an_answer_that_is_no_number_abstains(bundle: Path) -> None:
    with Student.load(bundle) as student:
        assert student.prediction_from_logits(np.full(len(student.classes), np.nan, np.float32)).abstained


def test_a_bundle_that_was_measured_on_whole_jpegs_decodes_them_whole(bundle: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(bundle, older)
    change_manifest(older, lambda manifest: manifest.update(preprocessing=FULL_DECODING))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8))
    noise.save(buffer := io.BytesIO(), "JPEG")
    jpeg = buffer.getvalue()
    now, then = Student.load(bundle), Student.load(older)
    size_px = now.bundle.image_size_px
    assert np.array_equal(now.pixels(jpeg), pixels_from_source(jpeg, size_px))
    assert np.array_equal(then.pixels(jpeg), pixels_from_source(jpeg, size_px, draft=False))
    assert not np.array_equal(now.pixels(jpeg), then.pixels(jpeg))
    change_manifest(older, lambda manifest: manifest.update(preprocessing="centre crop"))
    with pytest.raises(BundleError, match="preprocessing 'centre crop' is not"):
        Student.load(older)


def test_predict_goes_on_after_a_bad_image(bundle: Path, image: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from vl2v_deploy.cli.main import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli, ["predict", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    packed = zipped(bundle, tmp_path / "tiny.zip")
    code, out, err = run(packed, image, bad, image, "--json", "--precision", "fp16", "--threads", 1)
    first, second, third = map(json.loads, out.splitlines())
    assert code == 1 and f"1 of 3 images cannot be used: {bad}" in err
    assert first == third and first["provider"] == CPU and first["precision"] == "fp16"
    assert second == {"image": str(bad), "error": second["error"]} and "is not an image" in second["error"]
    code, out, err = run(bundle, image, "--providers", "auto")
    assert code == 0 and out.startswith(f"{image}: ") and err.startswith(("int8 on CPU", "fp32 on CPU"))
    code, out, err = run(bundle, image, "--providers", "cuda,cpu")
    assert code == 1 and "CUDAExecutionProvider cannot run here" in err and not out
    bmp = tmp_path / "drawing.bmp"
    Image.open(image).save(bmp)
    code, _, err = run(bundle, bmp)
    assert code == 1 and "its format is BMP, " in err and err.splitlines()[1].endswith("--allow-format BMP")
    assert run(bundle, bmp, "--allow-format", "bmp")[0] == 0
