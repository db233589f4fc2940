"""Every kind of input names the images that it should, in one order, and is read no further than needed."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image as Pillow

from vl2v_deploy.bulk import inputs
from vl2v_deploy.bulk.globs import matches
from vl2v_deploy.bulk.images import Image, source_of
from vl2v_deploy.bulk.inputs import images_of, require_inputs
from vl2v_deploy.client import Limits
from vl2v_deploy.data import files
from vl2v_deploy.data.files import each_image, image_files
from vl2v_deploy.errors import DataError, ImageError, MissingExtra


def png() -> bytes:
    Pillow.new("RGB", (4, 4)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: images in folders, and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "one/z.png", "one/deep/y.png", "two/x.JPG", "two/no suffix", ".hid/w.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    for name in ("notes.md", "one/.v.png", "__MACOSX/u.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    return tmp_path


IN_TREE = ["a.png", "b.png", "one/z.png", "one/deep/y.png", "two/no suffix", "two/x.JPG"]


def names(*words: str) -> list[str]:
    return [image.name for image in images_of(words)]


def test_bulk_folders_are_searched_by_the_projects_rule(tree: Path) -> None:
    assert names(".") == IN_TREE
    assert names("two", "a.png") == ["two/no suffix", "two/x.JPG", "a.png"]
    (tree / "one/deep/round").symlink_to(tree / "one")
    (tree / "two/other").symlink_to(tree / "one/deep")
    found = names(".")
    assert found == [*IN_TREE, "two/other/y.png", "two/other/round/z.png"]
    assert sorted(found) == sorted(map(str, image_files(Path()).images))


def test_bulk_a_folder_is_read_no_further_than_its_images_are(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(files, "is_image", lambda path: asked.append(path.name) or True)
    assert [path.name for path in islice(each_image(tree), 2)] == ["a.png", "b.png"]
    assert asked == ["a.png", "b.png"]


def test_bulk_patterns(tree: Path) -> None:
    assert names("*.png") == ["a.png", "b.png"]
    assert names("*/*.png") == ["one/z.png"]
    assert names("**/*.png") == ["a.png", "b.png", "one/deep/y.png", "one/z.png"]
    assert names("one/**/*.png") == ["one/deep/y.png", "one/z.png"]
    assert names("o?e") == ["one/z.png", "one/deep/y.png"]  # a folder stands for its images
    assert names("one/**") == ["one/deep/y.png", "one/z.png"]
    assert names("**/deep/**/*.png") == ["one/deep/y.png"]
    assert names(f"{tree}/[ab].png") == [f"{tree}/a.png", f"{tree}/b.png"]
    Path("[1].png").write_bytes(png())
    assert names("[1].png") == ["[1].png"]  # the file of that name goes first
    (tree / "one/deep/round").symlink_to(tree)
    assert names("**/*.png")[:3] == ["[1].png", "a.png", "b.png"] and len(names("**/*.png")) == 5


@pytest.mark.parametrize("depth", [3, 6])
def test_bulk_a_pattern_names_nothing_twice(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["a"] * depth)
    folder.mkdir(parents=True)
    (folder / "b").touch()
    assert list(matches(f"{tmp_path}/**/a/**/b")) == [folder / "b"]


def test_bulk_lists(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n\none/z.png\nnone.png")
    assert names("list.txt") == ["a.png", "one/z.png", "none.png"]
    Path("table.csv").write_text('label,image\ncat,a.png\ncat,"one/z, or not.png"\n')
    assert names("table.csv") == ["a.png", "one/z, or not.png"]
    table = pyarrow.table({"path": ["b.png", "a.png"] * 3000, "n": [1] * 6000})
    pyarrow.parquet.write_table(table, "table.parquet")
    assert names("table.parquet") == ["b.png", "a.png"] * 3000
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"b.png\ncaf\xe9.png\n")))
    assert names("-", "a.png") == ["b.png", "caf\\xe9.png", "a.png"]
    Path("image.txt").write_bytes(png())
    assert names("image.txt") == ["image.txt"]  # it is one, whatever it is called


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"label,file\ncat,a.png\n", "expected a column image or path, got label, file"),
        ("t.csv", b"", "expected a column image or path, got none"),
        ("t.csv", b"image,label\n,cat\n", "line 2: image: expected the path"),
        ("t.parquet", b"no parquet", "cannot be read as Parquet"),
        ("t.tar", b"no tar" * 200, "no tar archive"),
        ("t.tar.gz", b"", "is compressed"),
    ],
)
def test_bulk_lists_that_are_none(tree: Path, name: str, content: bytes, said: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=said) as raised:
        names(name)
    assert name in str(raised.value)


def test_bulk_a_parquet_list_needs_pyarrow(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as raised:
        names("t.parquet")
    assert raised.value.extra == "parquet"


def test_bulk_inputs_that_are_not_there(tree: Path) -> None:
    require_inputs(["a.png", "one", "o*", "-"])
    for word in ("none.png", "none/*.png", "*.gif"):
        with pytest.raises(DataError, match=r"no such file or folder|names no file or folder"):
            require_inputs([word])


def make_tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in [
            ("0/000.png", png()),
            ("0/000.cls", b"3"),
            ("0/001", png()),
            ("0/.hidden.png", png()),
            ("0/" + "long" * 60 + ".png", png() + b"tail"),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


def test_bulk_members_of_an_archive(tree: Path) -> None:
    make_tar(tree / "a.tar")
    found = list(images_of(["a.tar"]))
    assert [image.member for image in found] == ["0/000.png", "0/001", "0/" + "long" * 60 + ".png"]
    assert found[0].name == "a.tar::0/000.png"
    assert [source_of(image, Limits()) for image in found] == [png(), png(), png() + b"tail"]
    with pytest.raises(ImageError, match=r"a\.tar::0/001: \d+ bytes, more than 10: refused"):
        source_of(found[1], Limits(max_bytes=10))
    os.truncate("a.tar", found[2].offset + 10)
    with pytest.raises(ImageError, match="the archive ends within it"):
        source_of(found[2], Limits())
    with pytest.raises(DataError, match=r"a\.tar: is no tar archive, or damaged"):
        list(images_of(["a.tar"]))


def test_bulk_an_archive_is_not_kept_in_memory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tar(tree / "a.tar")
    opened = []
    real = tarfile.open

    def noted(*arguments: object, **named: object) -> tarfile.TarFile:
        opened.append(real(*arguments, **named))  # type: ignore[call-overload]
        return opened[-1]

    monkeypatch.setattr(tarfile, "open", noted)
    for _ in images_of(["a.tar"]):
        assert len(opened[0].members) == 0


def test_bulk_inputs_are_opened_when_their_turn_comes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def lines(_: Path) -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"{read}.png"

    monkeypatch.setattr(inputs, "paths_of_list", lines)
    Path("list.txt").touch()
    assert list(islice(images_of(["list.txt", "none.tar"]), 3)) == [Image(f"{n}.png") for n in (1, 2, 3)]
    assert read == 3
