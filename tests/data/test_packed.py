"""Images as webdataset and Hugging Face `datasets` keep them, through `init` to the recipe's data."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.domains import DomainSet, load_domains
from vl2v_deploy.data.packed import convert as converting
from vl2v_deploy.data.packed.convert import convert
from vl2v_deploy.data.packed.tars import samples_of_tar
from vl2v_deploy.errors import DataError
from vl2v_deploy.recipe import load_recipe

CLASSES = ("circle", "square")
Said = set[tuple[str, str, bytes]]


def images(root: Path, domain: str = "*") -> list[Path]:
    return sorted(root.glob(f"{domain}/*/*.png"))


def says(root: Path, domain: str = "*") -> Said:
    """Domain, class and bytes of the images of a folder."""
    return {(p.parts[-3], p.parts[-2], p.read_bytes()) for p in images(root, domain)}


def of_set(domain_set: DomainSet) -> Said:
    return {(s.domain, domain_set.classes[s.label], s.path.read_bytes()) for s in domain_set.samples}


def write_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def webdataset(paths: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Of each image its file, its class and a pickle, which must not be opened."""
    return [
        (f"{number:04}.{kind}", content)
        for number, path in enumerate(paths)
        for kind, content in (
            ("cls", path.parent.name.encode()),
            ("png", path.read_bytes()),
            ("pyd", b"cos\nabort\n."),
        )
    ]


def write_table(
    file: Path, paths: Sequence[Path], class_label: bool = True, **columns: Sequence[object]
) -> Path:
    """As `datasets` writes it."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = [path.parent.name for path in paths]
    table = pyarrow.table(
        {
            "image": [{"bytes": path.read_bytes(), "path": "../../" + path.name} for path in paths],
            "label": [CLASSES.index(label) for label in labels] if class_label else labels,
        }
        | columns
    )
    features: dict[str, object] = {"image": {"_type": "Image"}}
    if class_label:
        features["label"] = {"names": CLASSES, "_type": "ClassLabel"}
    of_datasets = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": of_datasets})
    if file.suffix == ".arrow":
        with pyarrow.ipc.new_stream(str(file), table.schema) as stream:
            stream.write_table(table)
    else:
        parquet.write_table(table, file)
    return file


def init(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["init", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def converted(path: Path, *words: str) -> tuple[DomainSet, str]:
    """What the recipe of `init --convert` loads, and what `init` said."""
    out, recipe = path.parent / "unpacked", path.parent / "recipe.yaml"
    said = init(path, "--convert", out, "--out", recipe, *words)
    return load_domains(load_recipe(recipe).data), said


@pytest.mark.parametrize("name", ["{}-{:05}.tar", "{}/{:03}.tar"])
def test_packed_tars_of_domains(domain_folder: Path, tmp_path: Path, name: str) -> None:
    shards = tmp_path / "shards"
    for domain in ("ink", "photo"):
        paths = images(domain_folder, domain)
        write_tar(shards / name.format(domain, 0), webdataset(paths[:12]))
        write_tar(shards / name.format(domain, 1), webdataset(paths[12:]))
    hint = init(shards, code=1)
    assert "4 file(s) of packed images (4 .tar)" in hint and f"init {shards} --convert FOLDER" in hint
    domain_set, said = converted(shards)
    assert of_set(domain_set) == says(domain_folder, "ink") | says(domain_folder, "photo")
    assert "Domains by the names of the files: ink, photo" in said
    assert "not read: 40 .pyd" in said


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_packed_tables_with_a_column_of_domains(domain_folder: Path, tmp_path: Path, suffix: str) -> None:
    paths, shards = images(domain_folder), tmp_path / "shards"
    for number, part in enumerate((paths[:30], paths[30:])):
        file = shards / "data" / f"train-{number:05}-of-00002.{suffix}"
        write_table(file, part, domain=[path.parts[-3] for path in part])
    assert "(2 ." + suffix in init(shards, code=1)
    domain_set, said = converted(shards, "--target", "photo")
    assert of_set(domain_set) == says(domain_folder)
    assert "Domains by the column or field domain: ink, paint, photo" in said
    assert "there is only train: images are split by seed" in said
    assert {sample.split for sample in domain_set.samples} == {"train", "val", "test"}


def test_packed_sides_are_kept_and_the_one_that_lacks_is_made(domain_folder: Path, tmp_path: Path) -> None:
    shards, paths = tmp_path / "shards", images(domain_folder, "ink")
    tested = [path for path in paths if path.stem in "01"]
    write_table(shards / "test-00000-of-00001.parquet", tested)
    write_table(shards / "train-00000-of-00001.parquet", [path for path in paths if path not in tested])
    domain_set, said = converted(shards)
    assert "There is no side val: one in 10 training images of each class is put there." in said
    assert Counter((s.label, s.split) for s in domain_set.samples) == {
        (label, side): count for label in (0, 1) for side, count in (("train", 7), ("val", 1), ("test", 2))
    }
    of_side = {s.path.read_bytes() for s in domain_set.samples if s.split == "test"}
    assert of_side == {path.read_bytes() for path in tested}
    assert (domain_set.domains, "No domains" in said) == (("all",), True)


def test_packed_json_says_more_than_names(domain_folder: Path, tmp_path: Path) -> None:
    members = []
    for number, path in enumerate(images(domain_folder)):
        fields = {
            "label": path.parent.name,
            "domain": path.parts[-3],
            "group": f"g{number // 2}",
            "caption": "x",
        }
        members += [(f"a/{number}.json", json.dumps(fields).encode()), (f"a/{number}.PNG", path.read_bytes())]
    file = write_tar(tmp_path / "all.tar", members)
    assert f"init {file} --convert FOLDER" in init(file, code=1)
    domain_set, _ = converted(file, "--target", "photo")
    assert of_set(domain_set) == says(domain_folder)
    of_group: dict[str, set[str]] = {}
    for sample in domain_set.samples:
        of_group.setdefault(sample.group, set()).add(sample.split)
    assert len(of_group) == 30 and all(len(sides) == 1 for sides in of_group.values())


@pytest.mark.parametrize("metadata", [False, True])
def test_packed_folders_of_sides_are_listed_where_they_lie(
    domain_folder: Path, tmp_path: Path, metadata: bool
) -> None:
    for was, now in (("ink", "train"), ("paint", "test"), ("photo", "validation")):
        (domain_folder / was).rename(domain_folder / now)
    where = {path.read_bytes(): path.parent.name for path in images(domain_folder)}
    (domain_folder / "train" / "circle" / "notes.txt").write_text("-")
    if metadata:  # the labels are in files, and the folders say nothing
        for side in ("train", "test", "validation"):
            rows = [f"{p.parent.name}/{p.name},{p.parent.name}\n" for p in images(domain_folder, side)]
            (domain_folder / side / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
    assert f"init {domain_folder} --convert FOLDER" in init(domain_folder, code=1)
    domain_set, said = converted(domain_folder)
    assert ("Files that are not read: 1 .txt." in said) is not metadata
    assert {s.path.read_bytes(): domain_set.classes[s.label] for s in domain_set.samples} == where
    assert all(s.path.is_relative_to(domain_folder) for s in domain_set.samples)
    sides = Counter((s.path.relative_to(domain_folder).parts[0], s.split) for s in domain_set.samples)
    assert sides == {("train", "train"): 20, ("test", "test"): 20, ("validation", "val"): 20}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_packed_imagefolder_with_metadata_is_a_manifest(
    domain_folder: Path, tmp_path: Path, suffix: str
) -> None:
    rows = [
        {"file_name": f"{p.parts[-3]}/{p.parts[-2]}/{p.name}", "label": p.parts[-2], "domain": p.parts[-3]}
        for p in images(domain_folder)
    ]
    file = domain_folder / f"metadata.{suffix}"
    if suffix == "csv":
        lines = [",".join(row.values()) for row in rows]
        file.write_text("\n".join([",".join(rows[0]), *lines]))
    elif suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), file)
    recipe = tmp_path / "recipe.yaml"
    said = init(domain_folder, "--out", recipe)
    assert "A manifest of 60 images of 2 classes in 3 domain(s)." in said
    assert "not used" not in said
    data = load_recipe(recipe).data
    assert data.manifest == str(file)
    assert of_set(load_domains(data)) == says(domain_folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,text\nink/circle/0.png,a circle\n"),
        ("metadata.jsonl", '{"file_name": "ink/circle/0.png", "text": "a circle"}\n'),
        ("metadata.jsonl", "no JSON"),
    ],
)
def test_packed_metadata_without_labels_leaves_the_folders_in_force(
    domain_folder: Path, name: str, text: str
) -> None:
    (domain_folder / name).write_text(text)
    assert "3 domains with 2 classes" in init(domain_folder)


def test_packed_names_never_become_paths(domain_folder: Path, tmp_path: Path) -> None:
    shards, encoded = tmp_path / "shards", images(domain_folder)[0].read_bytes()
    hostile = ["../../../evil", "/tmp/evil", "a/../../evil", "x\n\udcff", "C:\\evil", "\u202eevil"]
    members = [
        (f"{name}{number}.{kind}", content)
        for number, name in enumerate(hostile)
        for kind, content in (("png", encoded), ("cls", b"circle"))
    ]
    with tarfile.open(shards.with_suffix(".tar"), "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    convert(shards.with_suffix(".tar"), tmp_path / "out")
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in written) == [
        *(f"images/shards.tar/{number:07}.png" for number in range(1, len(hostile) + 1)),
        "manifest.jsonl",
    ]
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("1.png", b"")], r"one\.tar::1: label: is missing"),
        ([("1.png", b""), ("1.jpg", b""), ("1.cls", b"a")], r"1\.jpg: is a second image"),
        ([("1.png", b""), ("1.json", b"[1]")], r"1\.json: expected a JSON object"),
        ([("1.png", b""), ("1.json", b"[" * 200_000)], r"1\.json: is not JSON"),
        ([("1.png", b""), ("1.json", b"1" * 1_000_001)], r"1\.json: 1000001 bytes, more than 1000000"),
        ([("1.png", b""), ("1.cls", b"\xff")], r"1\.cls: is not UTF-8"),
        ([("1.png", b""), ("1.cls", b"a\x07b")], r"label: .*control characters"),
        ([("1.png", b""), ("1.json", b'{"label": {"a": 1}}')], "label: .*string"),
        ([("1.png", b""), ("1.json", b'{"label": "a", "split": "dev2"}')], "split: .*'train'"),
        ([("1.a.jpg", b"a")], r"no image; files that are not read: 1 \.a\.jpg"),
    ],
)
def test_packed_tars_that_are_wrong_are_named_and_nothing_is_left(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: str
) -> None:
    file = write_tar(tmp_path / "one.tar", members)
    with pytest.raises(DataError, match=expected):
        convert(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_packed_tar_that_is_cut_or_compressed(domain_folder: Path, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "one.tar", webdataset(images(domain_folder)))
    (tmp_path / "cut.tar").write_bytes(file.read_bytes()[:5000])
    for name, expected in (("cut.tar", "is cut|damaged"), ("b.tar.gz", "is compressed")):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=expected):
            list(samples_of_tar(tmp_path / name, Counter()))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("image", {"bytes": None, "path": "cat.jpg"}, "row 2: image: holds no bytes .* only the path cat"),
        ("image", None, "row 2: image: holds no bytes"),
        ("label", 7, "row 2: label: 7 is none of its 2 classes"),
        ("label", -1, "row 2: label: -1 is none"),
        ("label", None, "row 2: label: is missing"),
    ],
)
def test_packed_tables_that_are_wrong(
    domain_folder: Path, tmp_path: Path, column: str, value: Any, expected: str
) -> None:
    paths = images(domain_folder)[:3]
    values: list[Any] = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    values = values if column == "image" else [0, 0, 0]
    values[1] = value
    file = write_table(tmp_path / "one.parquet", paths, **{column: values})
    with pytest.raises(DataError, match=expected):
        convert(file, tmp_path / "out")


def test_packed_tables_without_the_columns_name_those_they_have(domain_folder: Path, tmp_path: Path) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    file = tmp_path / "one.parquet"
    parquet.write_table(pyarrow.table({"image": ["a.png"], "fine_label": [1]}), file)
    with pytest.raises(DataError, match=r"expected a column \{bytes, path\} .* it has: image, fine_label"):
        convert(file, tmp_path / "out")
    assert "--convert" not in init(file, code=1)  # it is a manifest, and a wrong one
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        convert(file, tmp_path / "out")


def test_packed_limits(domain_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "circle" / "flat.bmp"
    path.parent.mkdir()
    path.write_bytes(bytes(100_000))  # Parquet writes it once, and refers to it
    file = write_table(tmp_path / "bomb.parquet", [path] * 500)
    with pytest.raises(DataError, match="more than 20 times its size: refused"):
        convert(file, tmp_path / "out")
    monkeypatch.setattr(converting, "_EXPANSION", 10**9)
    assert convert(file, tmp_path / "out").manifest.is_file()


def test_packed_nothing_is_overwritten_or_converted_for_nothing(domain_folder: Path, tmp_path: Path) -> None:
    assert "nothing to convert; leave --convert out" in init(
        domain_folder, "--convert", tmp_path / "out", code=1
    )
    assert "no such file or folder" in init(tmp_path / "nowhere", "--convert", tmp_path / "out", code=1)
    file = write_tar(tmp_path / "one.tar", webdataset(images(domain_folder)))
    kept = domain_folder / "ink"
    assert "exists already" in init(file, "--convert", kept, code=1)
    assert len(images(domain_folder, "ink")) == 20
    (tmp_path / "recipe.yaml").write_text("mine")
    init(file, "--convert", tmp_path / "out", "--out", tmp_path / "recipe.yaml", code=1)
    assert not (tmp_path / "out").exists() and (tmp_path / "recipe.yaml").read_text() == "mine"
    shutil.copy(file, domain_folder)  # of a folder that can be used, nothing is said
    assert "--convert" not in init(domain_folder)
