"""Manifests of images in place of folders: what they say, what is wrong in them."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from vl2v_deploy.data.domains import DomainSet, data_fingerprint, load_domains, relocated
from vl2v_deploy.data.notices import folder_notices, seen_layout
from vl2v_deploy.data.starter import starter_recipe
from vl2v_deploy.errors import DataError, MissingExtra
from vl2v_deploy.recipe import DataRecipe, load_recipe, recipe_sha256

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(domain_folder: Path) -> Rows:
    """Of the 60 images of the folder."""
    return [
        {
            "image": path.relative_to(domain_folder.parent).as_posix(),
            "label": path.parent.name,
            "domain": path.parent.parent.name,
        }
        for path in sorted(domain_folder.rglob("*.png"))
    ]


def write(file: Path, rows: Rows) -> Path:
    if file.suffix == ".csv":
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def data_of(file: Path, target: str = "photo", **options: object) -> DataRecipe:
    return DataRecipe.model_validate({"manifest": str(file), "target": target} | options)


def load(file: Path, target: str = "photo", **options: object) -> DomainSet:
    return load_domains(data_of(file, target, **options))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifest_file_gives_what_the_folders_do(
    domain_folder: Path, tmp_path: Path, rows: Rows, suffix: str
) -> None:
    listed = load(write(tmp_path / f"list.{suffix}", rows))
    folders = load_domains(DataRecipe.model_validate({"root": str(domain_folder), "target": "photo"}))
    assert (listed.domains, listed.classes) == (folders.domains, folders.classes)
    assert [(s.path, s.domain, s.label, s.sha256) for s in listed.samples] == [
        (s.path, s.domain, s.label, s.sha256) for s in folders.samples
    ]


def test_manifest_file_fingerprint_is_of_what_it_says(tmp_path: Path, rows: Rows) -> None:
    before = data_fingerprint(load(write(tmp_path / "a.csv", rows)))
    assert data_fingerprint(load(write(tmp_path / "a.jsonl", rows[::-1]))) == before
    changed = [dict(row) for row in rows]
    changed[0]["label"] = "square"
    assert changed[0] != rows[0]
    assert data_fingerprint(load(write(tmp_path / "b.csv", changed))) != before


def test_manifest_file_splits_and_groups_are_kept(tmp_path: Path, rows: Rows) -> None:
    sides = ("train", "train", "train", "val", "test")
    for row in rows:
        number = int(Path(row["image"]).stem)
        row |= {"split": sides[number // 2], "group": f"{row['domain']}{row['label']}{number // 2}"}
    fixed = load(write(tmp_path / "fixed.csv", rows))
    assert all(s.split == sides[int(s.path.stem) // 2] for s in fixed.samples)
    for row in rows:
        del row["split"]
    of_group = defaultdict(set)
    for sample in load(write(tmp_path / "grouped.csv", rows)).samples:
        of_group[sample.group].add(sample.split)
    assert len(of_group) == 30
    assert all(len(found) == 1 for found in of_group.values())


def test_manifest_file_without_domains(tmp_path: Path, rows: Rows) -> None:
    plain = write(tmp_path / "plain.csv", [{"image": r["image"], "label": r["label"]} for r in rows])
    assert load(plain, target="none").domains == ("all",)
    with pytest.raises(DataError, match="has one domain"):
        load(plain)


def test_manifest_file_paths_may_be_absolute_and_elsewhere(
    domain_folder: Path, tmp_path: Path, rows: Rows
) -> None:
    for row in rows:
        row["image"] = str(tmp_path / row["image"])
    (tmp_path / "lists").mkdir()
    listed = load(write(tmp_path / "lists" / "list.csv", rows))
    assert {s.path for s in listed.samples} == set(domain_folder.rglob("*.png"))
    assert Path(listed.name(listed.samples[0])).is_absolute()


@pytest.mark.parametrize(
    ("row", "change", "expected"),
    [
        (2, {"image": "nowhere.png"}, r"line 4: image: .*nowhere\.png: no such file"),
        (2, {"image": "s3://bucket/1.png"}, "line 4: image: .*mount the bucket or download"),
        (2, {"image": "https://example.com/1.png"}, "line 4: image: .*https images are not downloaded"),
        (3, {"label": ""}, "line 5: label: is missing"),
        (3, {"domain": ""}, "line 5: domain: is empty"),
        (3, {"split": "dev"}, "line 5: split: dev"),
        (3, {"image": "data/ink/circle/0.png"}, "line 5: image: .*line 2 already"),
    ],
)
def test_manifest_file_names_wrong_rows(
    tmp_path: Path, rows: Rows, row: int, change: dict[str, str], expected: str
) -> None:
    assert rows[0]["image"] == "data/ink/circle/0.png"
    if "split" in change:
        rows = [each | {"split": "train"} for each in rows]
    rows[row] |= change
    with pytest.raises(DataError, match=expected):
        load(write(tmp_path / "list.csv", rows))


def test_manifest_file_says_what_it_does_not_use(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / ".hidden.png").write_bytes((tmp_path / rows[0]["image"]).read_bytes())
    rows.append(rows[0] | {"image": ".hidden.png"})
    listed = load(write(tmp_path / "list.csv", [row | {"photographer": "x"} for row in rows]))
    assert listed.unused == (".hidden.png",)
    assert any("not used: photographer" in notice for notice in folder_notices(listed))
    assert len(listed.samples) == 60


def test_manifest_file_of_parquet_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "list.parquet").write_bytes(b"")
    with pytest.raises(MissingExtra) as caught:
        load(tmp_path / "list.parquet")
    assert caught.value.extra == "parquet"


def test_manifest_file_moves_with_its_root(domain_folder: Path, tmp_path: Path, rows: Rows) -> None:
    file = write(tmp_path / "list.csv", rows)
    before = data_fingerprint(load(file))
    new = tmp_path / "moved"
    new.mkdir()
    domain_folder.rename(new / "data")
    file.rename(new / "list.csv")
    assert data_fingerprint(load_domains(relocated(data_of(file), new))) == before


def test_init_of_a_manifest_file_writes_a_recipe_that_loads(tmp_path: Path, rows: Rows) -> None:
    file, out = write(tmp_path / "list.csv", rows), tmp_path / "recipe.yaml"
    text, domain_set = starter_recipe(file, None, out)
    out.write_text(text)
    recipe = load_recipe(out)
    assert (recipe.data.manifest, recipe.data.root) == (str(file), str(tmp_path))
    assert load_domains(recipe.data).domains == ("ink", "paint", "photo")
    assert "60 images of 2 classes in 3 domain(s)" in seen_layout(domain_set)
    assert recipe_sha256(load_recipe(out, ["data.manifest=other.csv"])) != recipe_sha256(recipe)
