"""Pipes, devices and links where files are expected: nothing hangs, leads out or is there twice."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.client import Student
from vl2v_deploy.client.bundle import open_bundle
from vl2v_deploy.client.cascade.policy import load_policy
from vl2v_deploy.client.checksums import CHECKSUMS
from vl2v_deploy.client.images import read_encoded
from vl2v_deploy.data.files import image_files
from vl2v_deploy.data.prompts import classes_from_file
from vl2v_deploy.errors import BundleError, ImageError, VL2VError
from vl2v_deploy.models.record import RECORD, read_record
from vl2v_deploy.models.teacher.api import load_packed
from vl2v_deploy.models.teacher.precomputed import load_precomputed
from vl2v_deploy.recipe import PrecomputedRecipe, load_recipe
from vl2v_deploy.regular_files import open_regular, read_regular, read_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")


@pytest.fixture(autouse=True)
def _nothing_hangs() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("a hostile file was waited for")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path)


HOSTILE = [pipe, endless, circle]
Make = Callable[[Path], None]


@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_files_are_no_regular_ones(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "x")
    for read in (open_regular, read_regular, read_text):
        with pytest.raises(OSError, match="x") as raised:
            read(tmp_path / "x")
        assert raised.value.strerror


def test_links_may_be_kept_inside_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("a\r\nb")
    (tmp_path / "secret").touch()
    (folder / "link").symlink_to("file")
    (folder / "out").symlink_to("../secret")
    assert read_text(folder / "link") == "a\nb"
    with open_regular(folder / "link", inside=folder) as file:
        assert file.read() == b"a\r\nb"
    with pytest.raises(OSError, match="out of"):
        open_regular(folder / "out", inside=folder)
    with pytest.raises(OSError, match="out of"):
        open_regular(folder / ".." / "secret", inside=folder)


def precomputed(path: Path) -> object:
    table = path.with_name("texts.npz")
    np.savez(table, text=["a"], embedding=np.ones((1, 4)))
    recipe = {"kind": "precomputed", "images": str(path), "texts": str(table), "logit_scale": 10.0}
    return load_precomputed(PrecomputedRecipe.model_validate(recipe))


def class_list(path: Path) -> object:
    return classes_from_file(path, str(path))


def record(path: Path) -> object:
    return read_record(path.parent)


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (load_recipe, "recipe.yaml"),
        (read_encoded, "image.png"),
        (class_list, "classes.txt"),
        (class_list, "classes.yaml"),
        (load_policy, "cascade.json"),
        (load_packed, "teacher.json"),
        (precomputed, "images.npz"),
        (record, RECORD),
        (open_bundle, "bundle"),
        (Student.load, "bundle.zip"),
    ],
)
def test_hostile_files_are_an_error_that_names_them(
    tmp_path: Path, make: Make, read: Callable[[Path], object], name: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(VL2VError, match=name):
        read(tmp_path / name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("name", [CHECKSUMS, "manifest.json", "student.onnx", "golden/expected.npz"])
@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_files_in_a_bundle_are_refused(bundle: Path, tmp_path: Path, make: Make, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / name).unlink()
    make(copy / name)
    with pytest.raises(BundleError, match=name):
        open_bundle(copy)


def test_links_in_a_bundle_stay_in_it(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / "student.onnx").rename(copy / "data")
    (copy / "student.onnx").symlink_to("data")
    (tmp_path / "link").symlink_to(copy)
    for place in (copy, tmp_path / "link"):
        assert open_bundle(place).classes
    (copy / "data").rename(tmp_path / "elsewhere")
    (copy / "student.onnx").unlink()
    (copy / "student.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"student\.onnx: is a link out of the bundle: refused"):
        open_bundle(copy)


@pytest.mark.parametrize("rule", ["content", "torchvision"])
def test_links_that_lead_back_are_no_hostile_multitude(domain_folder: Path, rule: str) -> None:
    folder = domain_folder / "ink"
    expected = image_files(folder, rule)  # type: ignore[arg-type]
    assert len(expected.images) == 20
    (folder / "circle/up").symlink_to("..")
    (folder / "square/root").symlink_to(domain_folder)
    (folder / "square/self").symlink_to(".")
    (folder / "dangling").symlink_to("nowhere")
    found = image_files(folder, rule)  # type: ignore[arg-type]
    assert found.images == expected.images
    assert {path.name for path in found.unused} == {"up", "root", "self", "dangling"}
    # what is linked from elsewhere is followed, as data sets are put together from others
    (folder / "more").symlink_to(domain_folder / "paint/circle")
    assert len(image_files(folder, rule).images) == 30  # type: ignore[arg-type]


def test_links_to_images_are_followed(tmp_path: Path, domain_folder: Path) -> None:
    (tmp_path / "0.png").symlink_to(domain_folder / "ink/circle/0.png")
    assert read_encoded(tmp_path / "0.png") == (domain_folder / "ink/circle/0.png").read_bytes()


def test_hostile_names_in_no_encoding_work_or_are_named(tmp_path: Path, domain_folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(domain_folder / "ink/circle/0.png", tmp_path / name)
    assert read_encoded(tmp_path / name)
    with pytest.raises(ImageError) as raised:
        read_encoded(tmp_path / os.fsdecode(b"gone\xe9.png"))
    assert "gone" in str(raised.value)
