"""The workers in a real Ray on this machine: every row once, whatever is killed; memory stays flat."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
from PIL import Image

from tests.helpers.colour_bundle import COLOURS, make_colour_bundle, make_data
from tests.helpers.fake_vendor import fake_vendor
from tests.helpers.peers import ROOT, peer
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.client import Student
from vl2v_deploy.models.teacher.precomputed import load_precomputed
from vl2v_deploy.recipe import PrecomputedRecipe

PATIENCE_S = 600
ACTORS = 2  # that embed, in the document
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)}


def ran(job: str, environment: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """What a job of tests/scale/ray_jobs.py returns."""
    for _ in range(3):
        done = subprocess.run(
            [peer("ray"), "-m", "tests.scale.ray_jobs", job, json.dumps(options)],
            env=os.environ | QUIET | (environment or {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        # Ray gives its own processes 30 s, which no setting changes, and a busy machine takes longer.
        if "timed out during startup" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-6000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of two colours, and two files that are none."""
    data = make_data(tmp_path_factory.mktemp("photos") / "data")
    (data / "photo/red/bad.png").write_bytes(b"not an image")
    (data / "photo/red/empty.png").write_bytes(b"")
    return data


@pytest.fixture(scope="module")
def bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("made") / "bundle", photos)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(folder, format="parquet").to_table().to_pylist()
    return rows


def assert_each_once(folder: Path, photos: Path, bundle: Path) -> None:
    """Each file is one row; its answer is the student's, or an error where the student has one."""
    rows = {row["path"]: row for row in rows_of(folder)}
    assert Counter(row["path"] for row in rows_of(folder)) == Counter(map(str, files_of(photos)))
    with Student.load(bundle) as student:
        label = cache(lambda encoded: student.predict(encoded).label)
        for file in files_of(photos):
            row = rows[str(file)]
            if file.stem in ("bad", "empty"):
                assert row["error"] and row["label"] is None
            else:
                assert (row["label"], row["error"]) == (label(file.read_bytes()), None)


def files_of(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


@pytest.mark.slow
def test_the_example_labels_each_file_once_however_often_it_runs(
    tmp_path: Path, photos: Path, bundle: Path
) -> None:
    found = ran("label_twice", bundle=str(bundle), photos=str(photos), out=str(tmp_path / "labels"))
    first, again, refused = found["said"]
    assert first == again and "122 rows; 2 of images" in first
    assert "name a new folder" in refused
    assert_each_once(tmp_path / "labels", photos, bundle)


@pytest.mark.long
def test_labels_from_parquet_and_arrays(tmp_path: Path, photos: Path, bundle: Path) -> None:
    out = tmp_path / "out"
    found = ran("label_other_sources", bundle=str(bundle), photos=str(photos), out=str(out))
    assert "122 rows; 2 of images" in found["said"]
    assert_each_once(out / "labels", photos, bundle)
    assert all(len(row["embedding"]) == 3 for row in rows_of(out / "labels") if not row["error"])
    for name in ("arrays", "ragged"):
        labels = {row["id"]: row["label"] for row in rows_of(out / name)}
        assert labels == {number: "red" if number % 2 else "green" for number in range(6)}


@pytest.mark.long
def test_the_programs_of_the_document_run(tmp_path: Path, photos: Path, bundle: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles/quickstart").symlink_to(bundle)
    programs = re.findall("```python\n(.*?)```", (ROOT / "docs/ray.md").read_text(), re.DOTALL)
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        write_vendor_recipe(tmp_path, vendor.url("openai"), images=1).rename(tmp_path / "recipe.yaml")
        environment = {"VL2V_DEPLOY_CACHE": str(tmp_path / "cache")}
        ran("run_programs", environment, folder=str(tmp_path), programs=programs)
        billed = Counter(item.sha256 for item in vendor.bill() if item.kind == "image")
    labelled, embedded = rows_of(tmp_path / "labels"), rows_of(tmp_path / "embedded")
    for rows in labelled, embedded:
        assert len(rows) == len({row["path"] for row in rows}) == 122
        assert sum(row["error"] is not None for row in rows) == 2
    assert sum(row["embedding"] is None for row in embedded) == 2
    require_precomputed(tmp_path, embedded)
    # Canaries, the first images, are bought once more, to tell later whether the vendor's model moved; an
    # actor that begins when they are there asks about them again. All other images are bought once.
    canaries = [times for times in billed.values() if times > 1]
    assert len(billed) == 120 and len(canaries) <= 16 and set(canaries) <= {2, 1 + ACTORS}


def require_precomputed(folder: Path, embedded: list[dict[str, Any]]) -> None:
    """The embeddings serve a precomputed teacher, as the document says."""
    usable = [row for row in embedded if row["error"] is None]
    columns = {name: [row[name] for row in usable] for name in ("sha256", "embedding")}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "images.parquet")
    np.savez(folder / "texts.npz", text=["a"], embedding=np.ones((1, 16)))
    files = {"images": str(folder / "images.parquet"), "texts": str(folder / "texts.npz")}
    teacher = load_precomputed(PrecomputedRecipe(kind="precomputed", **files))
    found = teacher.embed_files([Path(row["path"]) for row in usable], columns["sha256"])
    assert np.allclose(found.numpy(), columns["embedding"], atol=1e-6)


@pytest.mark.long
def test_a_job_that_was_killed_goes_on_and_has_every_row_once(tmp_path: Path, bundle: Path) -> None:
    source = large_images(tmp_path / "source", 120)
    out, checkpoint = tmp_path / "labels", tmp_path / "labels.checkpoint"
    command = [peer("ray"), str(ROOT / "examples/ray_predict.py"), str(bundle), str(source), str(out)]
    environment = os.environ | QUIET | {"RAY_OVERRIDE_RESOURCES": '{"CPU": 4}'}
    job = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while len(list(checkpoint.glob("*/*.parquet"))) < 2:  # of eight
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    time.sleep(3)  # what Ray's own processes still do without their driver
    before = sum(pyarrow.parquet.read_metadata(path).num_rows for path in finished_of(out, checkpoint))
    assert 0 < before < len(files_of(source))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_each_once(out, source, bundle)


def large_images(folder: Path, of_each: int) -> Path:
    """Green and red squares that take long to decode, so that there is time to kill whoever does."""
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (2400, 2400), colour).save(folder / f"{name}-0.png")
        for copy in range(1, of_each):
            shutil.copy(folder / f"{name}-0.png", folder / f"{name}-{copy}.png")
    return folder


def finished_of(out: Path, checkpoint: Path) -> list[Path]:
    """Files of the output that the checkpoint counts as written."""
    names = {path.stem for path in checkpoint.glob("*/*.parquet") if ".pending" not in path.name}
    return [path for path in out.glob("*.parquet") if path.stem.rpartition("-")[0] in names]


@pytest.mark.long
def test_a_lost_node_costs_no_row(tmp_path: Path, photos: Path, bundle: Path) -> None:
    out, log = tmp_path / "labels", tmp_path / "log.jsonl"
    found = ran("lose_a_node", bundle=str(bundle), photos=str(photos), out=str(out), log=str(log))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    after = lines[found["before"] :]
    assert any(line["node"] == found["lost"] for line in lines[: found["before"]])
    assert sum(line["node"] != found["lost"] for line in after) > 10  # it was lost in the middle
    assert_each_once(out, photos, bundle)


@pytest.mark.long
def test_memory_stays_flat(tmp_path: Path, bundle: Path) -> None:
    images, size = 6000, 160  # 460 MB of pixels, through an object store of 80 MiB
    out, log = tmp_path / "labels", tmp_path / "log.jsonl"
    (tmp_path / "spilled").mkdir()
    places = {"out": str(out), "log": str(log), "spilled": str(tmp_path / "spilled")}
    found = ran("keep_memory_flat", bundle=str(bundle), images=images, size=size, **places)
    resident = [json.loads(line)["bytes"] for line in log.read_text().splitlines()]
    early, late = resident[: len(resident) // 4], resident[-len(resident) // 4 :]
    assert max(late) < max(early) + 20 * 2**20
    assert found["spilled"] == []
    assert Counter(row["id"] for row in rows_of(out)) == Counter(range(images))
