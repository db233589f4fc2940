"""The Spark example in a real local Spark, where there is a Java."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.dataset
import pytest

from tests.helpers.colour_bundle import MISLABELLED, make_colour_bundle, make_data
from tests.helpers.peers import ROOT, peer


@pytest.mark.long
def test_spark_labels_each_file_once(tmp_path: Path) -> None:
    python = peer("spark")
    if not shutil.which("java"):
        pytest.skip("no java: Debian has it as default-jre-headless")
    photos = make_data(tmp_path / "photos")
    (photos / "photo/red/bad.png").write_bytes(b"not an image")
    bundle = make_colour_bundle(tmp_path / "bundle", photos)
    done = subprocess.run(
        [python, ROOT / "examples/spark_predict.py", bundle, photos, tmp_path / "labels"],
        env=os.environ | {"PYSPARK_PYTHON": python, "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = pyarrow.dataset.dataset(tmp_path / "labels", format="parquet").to_table().to_pylist()
    found = {Path(unquote(urlsplit(row["path"]).path)): row for row in rows}
    assert len(found) == len(rows) and found.keys() == set(photos.rglob("*.png"))
    bad = found.pop(photos / "photo/red/bad.png")
    assert bad["error"] and [bad[name] for name in ("label", "probability", "abstained")] == [None] * 3
    wrong = [path for path, row in found.items() if row["label"] != path.parent.name]
    assert len(wrong) == MISLABELLED and all(row["error"] is None for row in found.values())
