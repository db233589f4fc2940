"""Embeddings that a user brings: read from Parquet and NPZ, checked, looked up, and distilled from."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.data.domains import Sample, load_domains
from vl2v_deploy.distillation.purchase.ahead import embed_ahead
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import MissingExtra, ModelError
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.precomputed import PrecomputedTeacher
from vl2v_deploy.recipe import PrecomputedRecipe, Recipe, load_recipe

PROMPTS = ["a photo of a circle", "a photo of a square"]
D = 8


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precomputed")
    return write_recipe(folder, make_domain_folder(folder / "data"))


@pytest.fixture(scope="module")
def samples(tiny: Path) -> tuple[Sample, ...]:
    return load_domains(load_recipe(tiny).data).samples


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **columns)
        return path
    rows = {name: list(values) for name, values in columns.items()}
    parquet.write_table(pa.table(rows), path)
    return path


def write_texts(folder: Path) -> Path:
    return write_table(folder / "texts.npz", {"text": PROMPTS, "embedding": vectors(2, seed=1)})


def load(images: Path, texts: Path, **more: Any) -> PrecomputedTeacher:
    teacher = load_teacher(
        PrecomputedRecipe(kind="precomputed", images=str(images), texts=str(texts), **more)
    )
    assert isinstance(teacher, PrecomputedTeacher)
    return teacher


def relative(sample: Sample) -> str:
    return "/".join(sample.path.parts[-3:])


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("column", ["sha256", "path"])
def test_an_image_is_found_by_content_or_path_wherever_the_data_lies(
    samples: tuple[Sample, ...], tmp_path: Path, column: str, suffix: str
) -> None:
    keys = [sample.sha256.upper() if column == "sha256" else relative(sample) for sample in samples]
    given = 3.0 * vectors(len(samples))
    images = write_table(tmp_path / f"images{suffix}", {column: keys, "embedding": given})
    teacher = load(images, write_texts(tmp_path), logit_scale=30.0)
    moved = [Path("/elsewhere/data", relative(sample)) for sample in samples]
    rows = teacher.embed_files(moved[::-1], [sample.sha256 for sample in samples][::-1])
    expected = given / np.linalg.norm(given, axis=1, keepdims=True)
    np.testing.assert_allclose(rows.flip(0).numpy(), expected, atol=1e-6)
    assert (teacher.embedding_dim, teacher.logit_scale) == (D, 30.0)


def test_a_folder_of_parts_as_spark_writes_it_is_one_table(
    samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    keys, given = [sample.sha256 for sample in samples], vectors(len(samples)).astype(np.float64)
    for part, rows in enumerate((slice(0, 7), slice(7, None))):
        columns = {"sha256": keys[rows], "embedding": given[rows], "label": keys[rows]}
        write_table(tmp_path / "images" / f"part-{part}.parquet", columns)
    (tmp_path / "images" / "_SUCCESS").touch()
    teacher = load(tmp_path / "images", write_texts(tmp_path))
    rows = teacher.embed_files([sample.path for sample in samples], keys)
    np.testing.assert_allclose(rows.numpy(), given / np.linalg.norm(given, axis=1, keepdims=True), atol=1e-6)


def test_classes_are_found_as_prompts_spell_them(tmp_path: Path) -> None:
    images = write_table(tmp_path / "images.npz", {"path": ["a/b/c.png"], "embedding": vectors(1)})
    columns = {"class": ["alarm_clock", "bike"], "embedding": vectors(2)}
    teacher = load(images, write_table(tmp_path / "texts.npz", columns))
    assert teacher.embed_texts(["bike", "alarm clock"]).shape == (2, D)
    with pytest.raises(ModelError, match=r"no embedding of 1 .*'a photo of a bike'.*style: class_name"):
        teacher.embed_texts(["a photo of a bike", "bike"])


def test_missing_ones_are_counted_and_named_before_anything_is_trained(
    tiny: Path, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    # The target's images are wanted last, for evaluation; one training image is not wanted at all.
    known = [sample for sample in samples if sample.domain != "photo"]
    columns = {"path": [relative(sample) for sample in known], "embedding": vectors(len(known))}
    write_table(tmp_path / "images.npz", columns)
    recipe = recipe_of(tiny, tmp_path)
    with pytest.raises(ModelError, match=r"no embedding of 20 that are asked for: '.*photo.*', \.\.\."):
        distill_recipe(recipe, tmp_path / "run")
    assert not list(tmp_path.glob("run*/metrics.jsonl"))


def recipe_of(tiny: Path, folder: Path, *overrides: str) -> Recipe:
    write_texts(folder)
    files = {name: str(folder / f"{name}.npz") for name in ("images", "texts")}
    teacher = json.dumps({"kind": "precomputed", **files, "logit_scale": 30.0})
    return load_recipe(tiny, [f"teacher={teacher}", *overrides])


def test_a_student_is_distilled_and_nothing_is_bought(
    tiny: Path, samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    keys, given = [sample.sha256 for sample in samples], vectors(len(samples))
    write_table(tmp_path / "images.npz", {"sha256": keys, "embedding": given})
    recipe = recipe_of(tiny, tmp_path)
    bought = embed_ahead(recipe)
    assert (bought.bought, bought.usd_per_1k_images) == (0, None) and bought.needed > 0
    [run] = distill_recipe(recipe, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    assert record["teacher"]["identity"] == bought.teacher
    assert (record["teacher"]["queries"], record["logit_scale"], record["embedding_dim"]) == (0, 30.0, D)
    assert not list(store_root().glob("*/*.safetensors"))
    target = [row for row, sample in enumerate(samples) if sample.domain == "photo"]
    cosines = given[target] @ vectors(2, seed=1).T / np.linalg.norm(vectors(2, seed=1), axis=1)
    correct = cosines.argmax(1) == [samples[row].label for row in target]
    assert record["accuracy"]["teacher"]["photo"] == pytest.approx(correct.mean())


def test_the_identity_is_of_the_content(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    identities = set()
    for name, seed in (("one", 0), ("copy", 0), ("other", 2)):
        columns = {"sha256": [samples[0].sha256], "embedding": vectors(1, seed)}
        images = write_table(tmp_path / name / "images.parquet", columns)
        identities.add(load(images, write_texts(tmp_path / name)).identity)
    assert len(identities) == 2


def test_it_does_not_pretend_to_see(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    columns = {"sha256": [samples[0].sha256], "embedding": vectors(1)}
    teacher = load(write_table(tmp_path / "images.npz", columns), write_texts(tmp_path))
    with pytest.raises(ModelError, match="set teacher_views: 0"):
        teacher.embed_images([Image.new("RGB", (8, 8))])
    with pytest.raises(ModelError, match="set teacher_views: 0"):
        EmbeddingStore(tmp_path, teacher).ask_online(torch.zeros((1, 8, 8, 3), dtype=torch.uint8))


def wrong(**changes: Any) -> dict[str, Any]:
    return {"sha256": ["aa", "bb", "cc"], "embedding": vectors(3)} | changes


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (wrong(sha256=["aa", "bb", "aa"]), r"1 key\(s\) occur more than once: 'aa'"),
        (wrong(embedding=vectors(3) * [[1], [np.nan], [1]]), r"1 embedding\(s\) are not finite: 'bb'"),
        (wrong(embedding=vectors(3) * [[0], [1], [0]]), r"2 embedding\(s\) are zero: 'aa', 'cc'"),
        (wrong(embedding=vectors(3)[:, :6]), "have 8 dimensions, those of images 6"),
        (wrong(path=["a", "b", "c"]), "expected the columns embedding and either sha256 or path"),
        ({"embedding": vectors(3)}, "expected the columns embedding and either sha256 or path"),
        ({"sha256": ["aa"]}, "expected the columns embedding and either sha256 or path, got sha256"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_table_that_cannot_be_used_says_why(
    tmp_path: Path, suffix: str, columns: dict[str, Any], expected: str
) -> None:
    images = write_table(tmp_path / f"images{suffix}", columns)
    with pytest.raises(ModelError, match=expected):
        load(images, write_texts(tmp_path))


def test_damaged_files_and_odd_rows_are_named(tmp_path: Path) -> None:
    texts = write_texts(tmp_path)
    with pytest.raises(ModelError, match=r"teacher\.images: .*none\.npz: no such file"):
        load(tmp_path / "none.npz", texts)
    for name in ("broken.npz", "broken.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 nothing PAR1")
        with pytest.raises(ModelError, match=rf"teacher\.images: .*{name}: cannot be read"):
            load(tmp_path / name, texts)
    objects = {"sha256": np.array(["aa"], dtype=object), "embedding": vectors(1)}
    with pytest.raises(ModelError, match="allow_pickle"):
        load(write_table(tmp_path / "objects.npz", objects), texts)
    ragged = {"sha256": ["aa", "bb"], "embedding": [[1.0, 2.0], [1.0]]}
    with pytest.raises(ModelError, match="of different lengths"):
        load(write_table(tmp_path / "ragged.parquet", ragged), texts)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"sha256": [hashlib.sha256(b"").hexdigest()], "embedding": vectors(1)}
    images = write_table(tmp_path / "images.parquet", columns)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as caught:
        load(images, write_texts(tmp_path))
    assert (caught.value.package, caught.value.extra) == ("pyarrow", "parquet")
