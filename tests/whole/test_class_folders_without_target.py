"""Class folders without domains, and a domain that lacks a class, from the recipe to the bundle."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.tiny import write_recipe
from tests.helpers.tiny_bundle import make_bundle, make_run
from vl2v_deploy.api import benchmark, open_run
from vl2v_deploy.benchmarking.judge.compare import compare_reports
from vl2v_deploy.benchmarking.measure.images import domain_judged_by
from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.benchmarking.report.tables import summary_grid
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.report import print_runs
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.errors import BenchmarkError

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


def test_class_folders_have_no_ood_figure_in_what_is_printed_of_a_run(
    without_target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    [run], [bundle] = without_target.glob("runs/*"), without_target.glob("bundles/*")
    print_runs([run], run.parent)
    said = capsys.readouterr().out
    assert "unseen domain (OOD)" in said and UNKNOWN in said
    result = open_run(run)
    assert result.ood_accuracy is None
    assert f"OOD {UNKNOWN}, ID " in repr(result)
    assert "<table>" in result._repr_html_()
    inspected = CliRunner().invoke(cli, ["inspect", str(bundle)])
    assert inspected.exit_code == 0 and "OOD" not in inspected.output


@pytest.mark.slow
def test_class_folders_are_benchmarked_by_id_accuracy(
    without_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(without_target / "cache"))
    [bundle] = without_target.glob("bundles/*")
    result = benchmark(
        bundle, without_target / "report", teacher=True, engines=("onnxruntime:fp32",), seconds=0.5
    )
    report = result.report
    assert report.measurements.images.ood_unknown == UNKNOWN
    engine, teacher = (report.results.engines[name] for name in ("onnxruntime:fp32", "teacher"))
    share = json.loads((bundle / "manifest.json").read_text())["precisions"]["fp32"]["accuracy"]["id"]
    assert engine.id_accuracy == engine.domains["all"].accuracy == pytest.approx(share)
    assert report.results.cascade is None and not (result.path / "cascade.json").exists()
    assert any(warning.startswith(f"OOD accuracy is {UNKNOWN}") for warning in report.results.warnings)
    assert any(warning.startswith("No cascade: ") for warning in report.results.warnings)
    assert "ID accuracy" in report.results.headline and "OOD" not in report.results.headline
    [verdict] = [verdict for verdict in report.results.verdicts if verdict.about == "accuracy"]
    assert verdict.question == "Keeps the teacher's ID accuracy?"
    assert verdict.numbers["difference"] == pytest.approx(engine.id_accuracy - teacher.id_accuracy)
    summary = summary_grid(report)
    assert [row[summary.columns.index("OOD %")] for row in summary.rows] == ["unknown"] * 2
    for name in ("report.md", "report.html"):
        text = (result.path / name).read_text()
        assert f"OOD: {UNKNOWN}" in text and "OOD accuracy on" not in text
        assert not re.search(r"unseen (images|domain comes)|\bnan\b", text)
    again = compare_reports(read_report(result.path), report)
    assert {row.what for row in again.rows if "accuracy" in row.what} == {"ID accuracy, pooled %"}
    assert not again.regression


def test_several_sources_without_a_target_have_nothing_to_be_judged_by() -> None:
    with pytest.raises(BenchmarkError, match=r"data\.target set to one of them"):
        domain_judged_by("none", ("ink", "paint"))


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
