"""What the workers make of tables, without an engine around them: answers, types, bad images, queries."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.helpers.colour_bundle import COLOURS, make_colour_bundle, make_data
from tests.helpers.fake_vendor import FakeVendor, fake_vendor, pixels_sha256
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.client import Limits, Student
from vl2v_deploy.errors import BudgetError, DataError, RecipeError
from vl2v_deploy.recipe import load_recipe
from vl2v_deploy.scale.ray import StudentActor, TeacherActor

TYPES = {
    "label": pa.string(),
    "probability": pa.float64(),
    "abstained": pa.bool_(),
    "precision": pa.string(),
    "embedding": pa.list_(pa.float32()),
    "error": pa.string(),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("made") / "bundle", data)


@pytest.fixture
def files(data: Path) -> list[Path]:
    return [data / "photo" / name / f"{number:02d}.png" for name in COLOURS for number in range(3)]


def test_rows_get_the_students_answers_and_keep_their_columns(bundle: Path, files: list[Path]) -> None:
    when = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
    others = {
        "path": pa.array([str(file) for file in files]),
        "count": pa.array([None, 1, 2, 3, 4, 5], pa.int64()),
        "when": pa.array([when] * 6, pa.timestamp("us", "UTC")),
    }
    batch = pa.table({"bytes": [file.read_bytes() for file in files]} | others)
    answered = StudentActor(bundle, embeddings=True)(batch)

    assert answered.select(list(others)).equals(pa.table(others))
    assert {name: answered.schema.field(name).type for name in TYPES} == TYPES
    assert set(answered.column_names) == {*others, *TYPES}
    with Student.load(bundle) as student:
        for row, file in zip(answered.to_pylist(), files, strict=True):
            expected = student.predict(file)
            assert (row["label"], row["abstained"]) == (expected.label, expected.abstained)
            assert row["label"] == file.parent.name
            assert row["probability"] == pytest.approx(expected.probability, abs=1e-6)
            assert row["precision"] == "fp32" and row["error"] is None
            assert np.allclose(row["embedding"], student.embed(file), atol=1e-6)


def test_an_image_that_cannot_be_used_is_a_row_with_its_error(bundle: Path, files: list[Path]) -> None:
    good = files[0].read_bytes()
    images = [b"not an image", good, good[:60], None, b""]
    answered = StudentActor(bundle, embeddings=True)(pa.table({"bytes": images, "at": range(5)})).to_pylist()
    assert [row["at"] for row in answered] == list(range(5))
    assert [row["label"] for row in answered] == [None, "green", None, None, None]
    assert [row["error"] is None for row in answered] == [False, True, False, False, False]
    for row in answered[0], *answered[2:]:
        assert [row[name] for name in TYPES if name != "error"] == [None] * 5
        assert row["error"] and "\n" not in row["error"]


@pytest.mark.parametrize("images", [[b"bad", b""], []], ids=["all bad", "none"])
def test_a_batch_without_an_answer_has_the_types_of_others(bundle: Path, images: list[bytes]) -> None:
    answered = StudentActor(bundle, embeddings=True)(pa.table({"bytes": pa.array(images, pa.binary())}))
    assert {field.name: field.type for field in answered.schema} == TYPES
    assert answered.num_rows == len(images)


def test_images_may_be_paths_and_arrays(bundle: Path, files: list[Path]) -> None:
    paths = pa.table({"file": [str(file) for file in files] + ["/nowhere.png"]})
    of_paths = StudentActor(bundle, image="file")(paths).to_pylist()
    assert [row["label"] for row in of_paths] == [file.parent.name for file in files] + [None]
    assert "/nowhere.png" in of_paths[-1]["error"]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    arrays = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)})
    of_arrays = StudentActor(bundle, image="image")(arrays)
    assert of_arrays["label"].to_pylist() == [row["label"] for row in of_paths[:-1]]


def test_limits_reach_the_student(bundle: Path, files: list[Path]) -> None:
    [row] = StudentActor(bundle, limits=Limits(max_pixels=10))(
        pa.table({"bytes": [files[0].read_bytes()]})
    ).to_pylist()
    assert row["label"] is None and "max_pixels" in row["error"]


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (pa.table({"byte": [b"1"], "path": ["a"]}), ["'bytes'", "byte, path", "did you mean 'byte'"]),
        (pa.table({"bytes": [b"1"], "label": [2]}), ["'label'", "rename"]),
        ({"bytes": np.array([b"1"])}, ["batch_format='pyarrow'"]),
    ],
    ids=["no such column", "column taken", "not a table"],
)
def test_a_table_that_does_not_fit_is_refused(bundle: Path, batch: Any, names: list[str]) -> None:
    with pytest.raises(DataError) as error:
        StudentActor(bundle)(batch)
    assert all(name in str(error.value) for name in names)


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVendor]:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        yield vendor


def images_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


def test_a_teacher_is_asked_about_each_image_once(tmp_path: Path, vendor: FakeVendor) -> None:
    recipe = write_vendor_recipe(tmp_path, vendor.url("openai"), images=4)
    images = images_of(tmp_path / "data")
    mixed = [*images[:20], b"no image", images[0], None, *images[20:]]
    actor = TeacherActor(recipe)
    rows = actor(pa.table({"bytes": mixed, "at": range(len(mixed))})).to_pylist()
    assert [row["at"] for row in rows] == list(range(len(mixed)))
    bad = [row for row in rows if row["embedding"] is None]
    assert [row["at"] for row in bad] == [20, 22] and all(row["error"] for row in bad)
    assert all(row["sha256"] is None for row in bad)
    assert rows[21]["embedding"] == rows[0]["embedding"] != rows[1]["embedding"]
    assert actor.store.queries == len(images)
    pixels = {pixels_sha256(Image.open(io.BytesIO(image)).convert("RGB")) for image in images}
    assert pixels == {item.sha256 for item in vendor.bill()}

    # A worker that comes later, as after a crash, finds them; so does a run that reads the files.
    later = TeacherActor(load_recipe(recipe))
    good = pa.table({"bytes": images})
    by_hash = {row["sha256"]: row["embedding"] for row in rows}
    assert all(by_hash[row["sha256"]] == row["embedding"] for row in later(good).to_pylist())
    later.store.embed(sorted((tmp_path / "data").rglob("*.png")))
    assert later.store.queries == 0


def test_a_budget_that_is_spent_stops_the_worker_and_keeps_what_was_bought(
    tmp_path: Path, vendor: FakeVendor
) -> None:
    recipe = write_vendor_recipe(
        tmp_path, vendor.url("openai"), images=8, batch_size=1, concurrency=1, budget={"max_queries": 60}
    )
    batch = pa.table({"bytes": images_of(tmp_path / "data")})  # 72 images
    with pytest.raises(BudgetError):
        TeacherActor(recipe)(batch)
    raised = TeacherActor(load_recipe(recipe, ["teacher.budget.max_queries=200"]))
    rows = raised(batch)
    assert rows["embedding"].null_count == 0
    assert 0 < raised.store.queries < len(batch)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("teacher.kind: precomputed", ["teacher={kind: precomputed, images: i.npz, texts: t.npz}"]),
        (
            "normalization: faithful",
            ["teacher={kind: open_clip, model: RN50, pretrained: openai}", "normalization=faithful"],
        ),
    ],
)
def test_a_recipe_whose_teacher_cannot_be_asked_is_refused(
    tmp_path: Path, field: str, changed: list[str]
) -> None:
    recipe = write_vendor_recipe(tmp_path, "http://127.0.0.1:1", images=1)
    with pytest.raises(RecipeError) as error:
        TeacherActor(load_recipe(recipe, changed))
    assert field in str(error.value)
