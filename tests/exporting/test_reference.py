"""The reference statistics of real bundles, and predictions of them that were logged."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from tests.helpers.tiny_bundle import make_bundle
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import Monitor, Student, open_bundle
from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.monitor.reference import FILE, load_reference
from vl2v_deploy.client.monitor.scores import BINS
from vl2v_deploy.exporting.finished.relabel import relabel_bundle
from vl2v_deploy.exporting.images import export_images
from vl2v_deploy.models.run_directory import load_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return make_bundle(folder)


@pytest.fixture(scope="module")
def log(folder: Path, bundle: Path) -> Path:
    """What `predict --json` prints of good images and one that is none."""
    (folder / "bad.png").write_bytes(b"no image")
    images = [*sorted((folder / "data").glob("*/*/*.png")), folder / "bad.png"]
    result = call("predict", str(bundle), *map(str, images), "--json", "--precision", "fp32")
    assert result.exit_code == 1
    path = folder / "log.jsonl"
    path.write_text(result.stdout)
    return path


def call(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_reference_is_of_source_validation_through_the_file(folder: Path, bundle: Path) -> None:
    [run] = (folder / "runs").iterdir()
    images = export_images(load_run(run), calibration_images=256, max_images=1)
    opened = open_bundle(bundle)
    facts, reference = opened.manifest.reference, load_reference(opened, "fp32")
    with Student.load(opened, precision="fp32") as student:
        probabilities = softmax(student.run(images.validation)[0])
        below = opened.manifest.confidence.abstain_below
    assert facts is not None and below is not None
    answers = facts.precisions["fp32"]
    shares = np.bincount(probabilities.argmax(1), minlength=len(opened.classes)) / len(probabilities)
    assert facts.images == len(probabilities) == reference.embedding[0].sum()
    assert answers.class_shares == pytest.approx(shares.tolist())
    assert answers.confidence_quantiles is not None
    assert answers.confidence_quantiles["0.5"] == pytest.approx(np.median(probabilities.max(1)), abs=1e-4)
    assert reference.confidence is not None and reference.events is not None
    assert reference.confidence.shape == (1, BINS) and reference.confidence.sum() == facts.images
    np.testing.assert_array_equal(reference.events[:-1, 0], (shares * facts.images).round())
    assert answers.abstained == pytest.approx(reference.events[-1, 0] / facts.images)
    basis = reference.basis
    products = basis.directions @ basis.directions.T
    np.testing.assert_allclose(products, np.eye(len(products)), atol=1e-5)
    assert (bundle / FILE).stat().st_size < 50_000
    assert opened.manifest.files[FILE].sha256 == sha256_of(bundle / FILE)


def test_means_over_source_validation_weigh_every_domain_the_same(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    assert open_bundle(bundle).manifest.confidence.validation_mean == "domains"
    [run] = (folder / "runs").iterdir()
    shutil.copytree(folder / "data", tmp_path / "data")
    for class_folder in (tmp_path / "data/ink").iterdir():
        for image in sorted(class_folder.iterdir())[::2]:
            image.unlink()  # the other source domain has more images than this one then
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace("  val: 0.1\n", "  val: 0.4\n"))
    found = {}
    for mean in ("domains", "images"):
        old = f"validation_mean: {'images' if mean == 'domains' else 'domains'}"
        text = (copy / "recipe.yaml").read_text().replace(old, f"validation_mean: {mean}")
        (copy / "recipe.yaml").write_text(text)
        images = export_images(
            load_run(copy),
            calibration_images=4,
            max_images=1,
            data_root=tmp_path / "data",
            allow_changed=True,
        )
        assert images.validation_weights.sum() == pytest.approx(1)
        found[mean] = images
    few = found["domains"].validation_weights > found["images"].validation_weights  # (V,)
    assert 0 < few.sum() < len(few) / 2
    np.testing.assert_allclose(found["domains"].validation_weights[few].sum(), 0.5)
    logits = np.eye(2, dtype=np.float32)[found["domains"].validation_labels]
    logits[few] = 1 - logits[few]  # all of the smaller domain wrong, all of the larger one right
    assert found["domains"].validation_accuracy(logits) == pytest.approx(0.5)
    assert found["images"].validation_accuracy(logits) == pytest.approx(1 - few.mean())


def test_a_relabelled_bundle_keeps_what_embeddings_were(folder: Path, bundle: Path) -> None:
    (folder / "names.txt").write_text("triangle\nhexagon\nstar\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        manifest = relabel_bundle(bundle, folder / "names.txt", folder / "relabelled")
    assert manifest.reference is not None
    assert manifest.reference.precisions["fp32"].class_shares is None
    old = load_reference(open_bundle(bundle), "fp32")
    new = load_reference(open_bundle(folder / "relabelled"), "fp32")
    assert new.confidence is None and new.events is None
    np.testing.assert_array_equal(new.embedding, old.embedding)
    np.testing.assert_array_equal(new.basis.directions, old.basis.directions)
    with Student.load(folder / "relabelled") as student:
        monitor = Monitor(student)
        image = np.zeros((40, 40, 3), np.uint8)
        monitor.observe(student.predict(image), student.embed(image))
        assert monitor.drift().images == 1


def test_the_log_of_predict_is_judged_and_drawn(bundle: Path, log: Path, tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    result = call("monitor", str(bundle), str(log), "--out", str(figure), "--json")
    assert result.exit_code == 0, result.output
    found, lines = json.loads(result.stdout), lines_of(log)
    assert found["images"] == len(lines) - 1 and found["errors"] == 1 and found["precision"] == "fp32"
    assert figure.read_bytes().startswith(b"\x89PNG")
    with Student.load(bundle, precision="fp32") as student:
        monitor = Monitor(student)
        monitor.observe(student.stream([line["image"] for line in lines[:-1]]))
    expected = json.loads(json.dumps(asdict(monitor.drift())))
    assert found["evidence"] == expected["evidence"] and found["statistics"] == expected["statistics"]
    words = call("monitor", str(bundle), str(log), "--out", str(figure))
    assert words.exit_code == 0 and "no embeddings" in words.stdout and str(figure) in words.stdout


def test_a_figure_of_another_kind_is_refused(bundle: Path, log: Path, tmp_path: Path) -> None:
    result = call("monitor", str(bundle), str(log), "--out", str(tmp_path / "figure.txt"))
    assert result.exit_code == 1 and "figure.txt" in result.stderr and not result.stdout


def test_parquet_and_embeddings_are_read(bundle: Path, log: Path, tmp_path: Path) -> None:
    rows = lines_of(log)[:-1]
    with Student.load(bundle, precision="fp32") as student:
        embeddings = student.embed_batch([row["image"] for row in rows])
    for row, embedding in zip(rows, embeddings, strict=True):
        row["embedding"] = embedding.tolist()
        row["top"] = None
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    jsonl = tmp_path / "log.jsonl"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for path in (tmp_path / "log.parquet", jsonl):
        result = call("monitor", str(bundle), str(path), "--json")
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout)["statistics"])
        assert path.with_suffix(".drift.png").is_file()
    assert found[0] == found[1]
    assert all(one["window"] is not None for one in found[0])


def test_predict_writes_embeddings_that_are_judged_as_if_they_had_not_been_written(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    images = sorted((folder / "data").glob("*/*/*.png"))
    command = ["predict", str(bundle), *map(str, images), "--precision", "fp32"]
    logged = call(*command, "--json", "--embeddings")
    assert logged.exit_code == 0, logged.output
    (tmp_path / "log.jsonl").write_text(logged.stdout)
    with Student.load(bundle, precision="fp32") as student:
        embeddings = student.embed_batch(images)
        monitor = Monitor(student)
        monitor.observe(student.stream(images, embeddings=True))
    written = [line["embedding"] for line in lines_of(tmp_path / "log.jsonl")]
    np.testing.assert_array_equal(np.array(written, np.float32), embeddings)
    result = call("monitor", str(bundle), str(tmp_path / "log.jsonl"), "--json")
    found, expected = json.loads(result.stdout), json.loads(json.dumps(asdict(monitor.drift())))
    assert found["statistics"] == expected["statistics"]
    assert all(one["window"] is not None for one in found["statistics"])
    words = call("monitor", str(bundle), str(tmp_path / "log.jsonl"))
    assert "no embeddings" not in words.stdout
    refused = call(*command, "--embeddings")
    assert refused.exit_code == 2 and "--json" in refused.stderr and not refused.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "cow"}, "line 1: label: 'cow'"),
        ({"label": None}, "line 1: label"),
        ({"probability": 1.5}, "line 1: probability"),
        ({"probability": "high"}, "line 1: probability"),
        ({"abstained": None}, "line 1: abstained"),
        ({"precision": "int8"}, "int8 .*--precision|fp32 and int8.*--precision"),
        ({"embedding": [1.0]}, "1 of .* have an embedding"),
    ],
)
def test_what_is_no_log_of_this_bundle_is_refused_by_its_line(
    bundle: Path, log: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    first, *rest = lines_of(log)
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join(json.dumps(row) for row in [first | change, *rest]))
    result = call("monitor", str(bundle), str(changed))
    assert result.exit_code == 1 and not result.stdout
    assert re.search(said, result.stderr), result.stderr


def test_without_pyarrow_it_says_what_to_install(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = call("monitor", str(bundle), str(tmp_path / "log.parquet"))
    assert result.exit_code == 1 and "[parquet]" in result.stderr


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"error": "bad"}', b"\xff\xd8\xff\xe0 a photo"])
def test_a_log_without_predictions_is_refused(bundle: Path, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(text)
    result = call("monitor", str(bundle), str(tmp_path / "log.jsonl"))
    assert result.exit_code == 1 and "log.jsonl" in result.stderr
