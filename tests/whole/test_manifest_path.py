"""A CSV manifest in place of folders: init, distill, export and benchmark, by the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.cli.main import cli
from vl2v_deploy.models.record import read_record

SPLITS = ("test", "val", *["train"] * 8)  # of the ten images of each class, by their number
LABELS = {"circle": "round thing", "square": "box"}  # not what the folders are called


def vl2v(*words: str | Path) -> str:
    result = CliRunner().invoke(cli, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def write_manifest(folder: Path) -> Path:
    file = folder / "images.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("image", "label", "domain", "split", "group"))
        for path in sorted(folder.glob("data/*/*/*.png")):
            domain, name, number = *path.parts[-3:-1], int(path.stem)
            group = f"{domain}-{name}-{number}"
            writer.writerow((path.relative_to(folder), LABELS[name], domain, SPLITS[number], group))
    return file


@pytest.mark.slow
def test_a_manifest_is_distilled_exported_and_benchmarked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    make_domain_folder(tmp_path / "data")
    manifest, recipe = write_manifest(tmp_path), write_recipe(tmp_path, tmp_path / "data")
    said = vl2v("init", manifest, "--target", "photo", "--out", tmp_path / "init.yaml")
    assert "60 images of 2 classes in 3 domain(s)" in said
    # The data of the recipe that init wrote, with the tiny teacher and student.
    trees = [yaml.safe_load(file.read_text()) for file in (recipe, tmp_path / "init.yaml")]
    recipe.write_text(yaml.safe_dump(trees[0] | {"data": trees[1]["data"]}))

    said = vl2v("distill", recipe, "--out", tmp_path / "run")
    assert "photo (target, OOD)" in said
    record = read_record(tmp_path / "run")
    assert record.classes == ("box", "round thing")
    assert record.data.images["ink"] == {"train": 16, "val": 2, "test": 2}
    assert record.data.evaluated == {"ink": 2, "paint": 2, "photo": 20}

    vl2v("export", tmp_path / "run", "--out", tmp_path / "bundle")
    # Elsewhere: what is measured are the images of the manifest, wherever it lies now.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("data", manifest.name):
        (tmp_path / name).rename(moved / name)
    report_of = ("benchmark", tmp_path / "bundle", "--engines", "onnxruntime:fp32", "--seconds", "0.5")
    failed = CliRunner().invoke(cli, [*map(str, report_of), "--out", str(tmp_path / "nowhere")])
    assert failed.exit_code == 1 and "images.csv" in failed.output and "Traceback" not in failed.output
    vl2v(*report_of, "--data", moved, "--out", tmp_path / "report")
    report = read_report(tmp_path / "report")
    images = report.measurements.images
    assert {domain: len(of.names) for domain, of in images.domains.items()} == record.data.evaluated
    assert sorted(images.domains["ink"].names) == ["data/ink/circle/0.png", "data/ink/square/0.png"]
    assert sorted(images.domains["ink"].groups) == ["ink-circle-0", "ink-square-0"]
    assert report.measurements.provenance.data == report.measurements.provenance.distilled_data
    measured = report.results.engines["onnxruntime:fp32"].domains["photo"].accuracy
    made = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert measured == pytest.approx(made["precisions"]["fp32"]["accuracy"]["ood"])
