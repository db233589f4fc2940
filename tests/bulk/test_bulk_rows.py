"""What stands in the output: the same answers in every format, errors as rows, by any number of processes."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from tests.bulk.test_bulk_inputs import make_tar
from tests.helpers.bulk import make_place, predict, rows
from tests.helpers.made_once import made_once
from vl2v_deploy.bulk import kept
from vl2v_deploy.bulk.answering import ROWS_AT_ONCE, Work, rows_here, rows_of_processes
from vl2v_deploy.bulk.images import Image
from vl2v_deploy.bulk.rows import Columns, raw_rows
from vl2v_deploy.client import Limits, Student, open_bundle
from vl2v_deploy.exporting.finished.logged import read_predictions


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "bulk", make_place)


def test_bulk_formats_hold_the_same_answers(place: Path, tmp_path: Path) -> None:
    images = (place / "data/photo", place / "data/bad.jpg")
    for ending in ("jsonl", "csv", "parquet"):
        out = tmp_path / "new" / f"out.{ending}"
        result = predict(place, *images, "--out", out, "--embeddings", "--top", 9, "--precision", "fp32")
        assert result.exit_code == 0, result.output
        assert f"{out}: 41 images, 1 failed" in result.stderr
        assert [path.name for path in out.parent.iterdir() if ending in path.name] == [out.name]
    lines = rows(tmp_path / "new/out.jsonl")
    assert len(lines) == 41
    table = pyarrow.parquet.read_table(tmp_path / "new/out.parquet")
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32())
    with (tmp_path / "new/out.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    student = Student.load(place / "bundle", precision="fp32")
    for line, row, cell in zip(lines, table.to_pylist(), cells, strict=True):
        assert line["image"] == row["image"] == cell["image"]
        if "error" in line:
            assert line == {"image": str(place / "data/bad.jpg"), "error": line["error"]}
            assert "is not an image" in line["error"] == row["error"] == cell["error"]
            assert row["label"] is row["top_labels"] is row["embedding"] is None
            assert cell["label"] == cell["probability"] == cell["embedding"] == ""
            continue
        answer = student.predict(line["image"], top=2)
        assert line["label"] == row["label"] == cell["label"] == cell["label_1"] == answer.label
        assert line["probability"] == row["probability"] == float(cell["probability"])
        assert line["probability"] == pytest.approx(answer.probability, abs=1e-6)
        assert [[row["top_labels"][n], row["top_probabilities"][n]] for n in (0, 1)] == line["top"]
        assert [cell["label_2"], float(cell["probability_2"])] == line["top"][1]
        assert line["abstained"] is row["abstained"] is (cell["abstained"] == "true") is answer.abstained
        assert line["precision"] == row["precision"] == cell["precision"] == "fp32"
        assert np.allclose(line["embedding"], student.embed(line["image"]), atol=1e-6)
        assert np.array_equal(np.float32(line["embedding"]), np.float32(row["embedding"]))
        assert json.loads(cell["embedding"]) == line["embedding"]
        assert row["error"] is None and cell["error"] == ""
    bundle = open_bundle(place / "bundle")
    for log in ("out.jsonl", "out.parquet"):  # what `monitor` reads
        logged = read_predictions(tmp_path / "new" / log, bundle)
        assert len(logged.index) == 40 and logged.errors == 1 and logged.embeddings is not None


def test_bulk_a_spreadsheet_computes_nothing(place: Path, tmp_path: Path) -> None:
    evil = tmp_path / '=cmd|"x", y.png'
    evil.write_bytes((place / "data/photo/red/00.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert predict(place, evil.name, "--out", "out.csv").exit_code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["image"] == f"'{evil.name}" and row["label"] == "red"


def test_bulk_prints_without_out_as_it_always_did(place: Path, tmp_path: Path) -> None:
    result = predict(place, place / "data/photo/red", place / "data/bad.jpg", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1 and len(lines) == 21 and "1 of 21 images cannot be used" in result.stderr
    result = predict(place, "-", stdin=f"{place}/data/photo/red/00.png\n")
    assert result.exit_code == 0 and result.stdout.startswith(f"{place}/data/photo/red/00.png: red 0.")
    assert predict(place, "-", stdin="").stderr.endswith("-: no image is there\n")


def test_bulk_members_of_archives_are_answered(place: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar")
    with (tmp_path / "a.tar").open("r+b") as archive:  # the first image is damaged
        content = archive.read()
        archive.seek(content.index(b"IDAT"))
        archive.write(b"XXXX")
    assert predict(place, tmp_path / "a.tar", "--out", tmp_path / "out.jsonl").exit_code == 0
    bad, good, longest = rows(tmp_path / "out.jsonl")
    assert good["image"] == f"{tmp_path}/a.tar::0/001" and good["label"] in ("green", "red")
    assert bad["error"].startswith(f"{tmp_path}/a.tar::0/000.png: is damaged") and longest["label"]


def test_bulk_strict_exits_with_1_after_all_is_written(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = predict(place, place / "data", "--out", out, "--strict")
    assert result.exit_code == 1 and "1 of 121 images cannot be used" in result.stderr
    assert len(rows(out)) == 121
    assert predict(place, place / "data/photo", "--out", tmp_path / "good.jsonl", "--strict").exit_code == 0


def test_bulk_processes_give_the_rows_of_one(place: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / f"{workers}.jsonl"
        result = predict(place, place / "many.txt", "--out", out, "--workers", workers)
        assert result.exit_code == 0, result.output
    assert len(rows(tmp_path / "1.jsonl")) == 2500
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_bulk_a_folder_gets_files_of_so_many_rows(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(kept, "ROWS_OF_A_FILE", 2 * ROWS_AT_ONCE)
    out, options = tmp_path / "out", ("--format", format, "--workers", 1)
    assert predict(place, place / "many.txt", "--out", out, *options).exit_code == 0
    files = sorted(path.name for path in out.iterdir())
    assert files == ["_run.json", *(f"part-{number:05d}.{format}" for number in range(5))]
    if format == "parquet":
        found = pyarrow.parquet.read_table(out).column("image").to_pylist()
    else:
        found = [row["image"] for file in files[1:] for row in rows(out / file)]
    assert found == (place / "many.txt").read_text().split()
    again = predict(place, place / "many.txt", "--out", out, *options, "--resume")
    assert again.exit_code == 0 and "was finished before" in again.stderr
    other = predict(place, place / "many.txt", "--out", out, *options, "--resume", "--top", 1)
    assert other.exit_code == 1 and "top was 2" in other.stderr
    mine = tmp_path / "mine"
    mine.mkdir()
    assert predict(place, place / "data/photo", "--out", mine).exit_code == 0  # an empty folder is none
    shutil.rmtree(mine)
    mine.mkdir()
    (mine / "thesis.txt").touch()
    assert predict(place, place / "data", "--out", mine, "--overwrite").exit_code == 1
    assert (mine / "thesis.txt").exists()


def test_bulk_an_output_that_is_there_is_not_replaced_unasked(place: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "out.parquet", place / "data/photo"
    assert predict(place, images, "--out", out).exit_code == 0
    before = out.read_bytes()
    result = predict(place, images, "--out", out)
    assert result.exit_code == 1 and "out.parquet: exists already; pass --overwrite" in result.stderr
    assert predict(place, images, "--out", out, "--resume").exit_code == 0
    result = predict(place, images, "--out", out, "--resume", "--embeddings")
    assert result.exit_code == 1 and "embeddings was False" in result.stderr
    assert out.read_bytes() == before
    assert predict(place, images, "--out", out, "--overwrite", "--top", 1).exit_code == 0
    assert out.read_bytes() != before


def test_bulk_what_makes_no_sense_is_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.csv"
    for words, said in [
        (("none", "--out", out), "none: no such file or folder"),
        ((tmp_path, "--out", out), "no image is there"),
        (
            (place / "data", "--out", tmp_path / "out.pq"),
            "expected a file that ends in .parquet, .csv, .jsonl",
        ),
        ((place / "data", "--out", out, "--format", "jsonl"), "expected a file that ends in"),
        ((place / "data", "--out", out, "--json"), "--json: prints"),
        ((place / "data", "--out", out, "--resume", "--overwrite"), "pass one of them"),
        ((place / "data", "--strict", "--workers", 2), "--strict, --workers: only with --out"),
        ((place / "data", "--embeddings"), "pass --json too, or --out"),
        ((place / "data", "--part", "3/2"), "expected i/N"),
    ]:
        result = predict(place, *words)
        assert result.exit_code != 0 and said in result.stderr, result.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("out.parquet", "out"):
        result = predict(place, place / "data", "--out", tmp_path / name)
        assert result.exit_code == 1 and "vl2v-deploy[parquet]" in result.stderr
    assert list(tmp_path.iterdir()) == []
    for name in ("out.csv", "out.jsonl"):
        assert predict(place, place / "data", "--out", tmp_path / name).exit_code == 0


def test_bulk_decoding_with_a_deadline_gives_the_same_rows(place: Path, tmp_path: Path) -> None:
    images = (place / "data/photo/red", place / "data/bad.jpg")
    assert predict(place, *images, "--out", tmp_path / "a.jsonl").exit_code == 0
    result = predict(place, *images, "--out", tmp_path / "b.jsonl", "--decode-deadline", 60)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("processes", [None, 2])
def test_bulk_reads_only_a_little_ahead(place: Path, processes: int | None) -> None:
    read = 0

    def endless() -> Iterator[Image]:
        nonlocal read
        while True:
            read += 1
            yield Image(str(place / "data/photo/red/00.png"))

    work = Work(place / "bundle", "fp32", None, None, Limits(), "jsonl", Columns(1, False))
    if processes is None:
        made = rows_here(work.load(None), endless(), work)
    else:
        made = rows_of_processes(endless(), work, processes)
    for number in range(1, 4):
        assert len(next(made).images) == ROWS_AT_ONCE
        assert read <= (number + 3 * (processes or 0)) * ROWS_AT_ONCE + 100
    made.close()


def test_bulk_no_row_is_of_more_columns_than_the_header() -> None:
    assert raw_rows([], "csv", Columns(3, True)) == b""
