"""A bundle whose files are links, as in a hub's cache: refused in one line that says what to do."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.colour_bundle import make_colour_bundle, make_data
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import Student
from vl2v_deploy.client.bundle import GOLDEN, MANIFEST, ONNX, open_bundle
from vl2v_deploy.client.checksums import CHECKSUMS
from vl2v_deploy.errors import BundleError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("links")
    return make_colour_bundle(folder / "bundle", make_data(folder / "data"))


@pytest.fixture
def snapshot(bundle: Path, tmp_path: Path) -> Path:
    """models--me--student/snapshots/a revision, whose files are links into ../../blobs."""
    model = tmp_path / "models--me--student"
    blobs, root = model / "blobs", model / "snapshots" / "a revision"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in bundle.rglob("*") if path.is_file()):
        shutil.copyfile(file, blobs / str(number))
        link = root / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return root


def advice(message: str, root: Path) -> str:
    """The command that the message gives."""
    assert f"{root}/" in message and "link out of the bundle" in message
    [line] = [line for line in message.splitlines() if "cp -rL" in line]
    return line[line.index("cp -rL") :]


def test_the_advice_for_a_bundle_of_links_makes_one_that_loads(
    snapshot: Path, bundle: Path, tmp_path: Path
) -> None:
    messages = set()
    for load in (Student.load, open_bundle):
        with pytest.raises(BundleError) as raised:
            load(snapshot)
        messages.add(str(raised.value))
    [message] = messages
    command = advice(message, snapshot)
    copy = tmp_path / "copy"
    words = [str(copy) if word == "COPY" else word for word in shlex.split(command)]
    subprocess.run(words, check=True)
    with Student.load(copy, threads=1) as student:
        assert student.predict(next((bundle / "golden").glob("*.png"))).label == "red"


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "BUNDLE", "image.png"),
        ("verify", "BUNDLE"),
        ("inspect", "BUNDLE"),
        ("benchmark", "BUNDLE"),
        ("relabel", "BUNDLE", "--classes", "classes.txt"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_says_what_to_do_with_a_bundle_of_links(
    words: tuple[str, ...], snapshot: Path, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text("green\nred\n")
    (tmp_path / "image.png").touch()
    places = {"BUNDLE": snapshot, **{file.name: file for file in tmp_path.iterdir()}}
    given = [str(places.get(word, word)) for word in words]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 1
    if result.exception and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, BundleError)
    assert advice(result.output or str(result.exception), snapshot).startswith("cp -rL '")


@pytest.mark.parametrize("name", [CHECKSUMS, MANIFEST, ONNX, GOLDEN])
def test_one_link_out_of_a_bundle_is_refused_by_name(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError) as raised:
        open_bundle(copy)
    assert str(raised.value).startswith(f"{copy / name}: is a link out of the bundle: refused; ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [CHECKSUMS, MANIFEST, ONNX, GOLDEN])
def test_a_folder_in_place_of_a_file_is_told_in_one_line(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(BundleError) as raised:
        open_bundle(copy)
    message = str(raised.value)
    assert message.startswith(f"{copy / name}: cannot be read: is a directory; copy the bundle again")
    assert "Errno" not in message and "\n" not in message
