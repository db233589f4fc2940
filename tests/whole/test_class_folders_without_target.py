"""Class folders without domains, and a domain that lacks a class, from the recipe to the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from tests.helpers.tiny_bundle import make_bundle, make_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.study.table import tables

UNKNOWN = "not measured: the data has one domain"


@pytest.fixture(scope="module")
def without_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle of class folders, and its run."""
    folder = tmp_path_factory.mktemp("class_folders")
    write_recipe(folder, make_domain_folder(folder / "data") / "ink")
    make_bundle(folder, "data.target=none")
    return folder


def test_class_folders_are_distilled_and_exported_without_an_ood_figure(without_target: Path) -> None:
    [run], [bundle] = without_target.glob("runs/*"), without_target.glob("bundles/*")
    record = json.loads((run / "run.json").read_text())
    assert set(record["metrics"]) == set(record["accuracy"]["student"]) == {"all"}
    assert record["accuracy"]["target"] == "none"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["precisions"]["fp32"]["accuracy"]["ood"] is None
    cards = [path.read_text() for path in bundle.glob("*.md")]
    assert any(card.count(UNKNOWN) >= 2 for card in cards)
    for card in cards:
        assert "nan" not in card.lower().split()


def test_class_folders_have_an_unknown_ood_column_in_tables(without_target: Path) -> None:
    [table] = tables([without_target / "runs"])
    assert table.columns[0] == "OOD"
    assert table.cells[0][0] is None
    id_accuracy = table.cells[0][table.columns.index("ID")]
    assert id_accuracy is not None
    assert any(UNKNOWN in note for note in table.notes)
    result = CliRunner().invoke(cli, ["table", str(without_target / "runs")])
    assert result.exit_code == 0
    assert UNKNOWN in " ".join(result.output.split())


def test_class_folders_are_no_benchmark_and_the_error_says_why(without_target: Path) -> None:
    [bundle] = without_target.glob("bundles/*")
    result = CliRunner().invoke(cli, ["benchmark", str(bundle)])
    assert result.exit_code == 1
    assert "has no target domain" in " ".join(result.output.split())


def test_lacking_classes_are_counted_in_the_record(tmp_path: Path) -> None:
    data = make_domain_folder(tmp_path / "data")
    shutil.rmtree(data / "photo" / "square")
    shutil.rmtree(data / "ink" / "circle")
    write_recipe(tmp_path, data)
    record = json.loads((make_run(tmp_path, "data.target=photo") / "run.json").read_text())
    assert record["data"]["classes"] == {"ink": 1, "paint": 2, "photo": 1}
    photo = record["metrics"]["photo"]
    assert photo["images"] == record["data"]["evaluated"]["photo"] == 10
    assert photo["per_class"]["square"] == {"images": 0, "accuracy": None}
    assert photo["accuracy"] == photo["per_class"]["circle"]["accuracy"]
