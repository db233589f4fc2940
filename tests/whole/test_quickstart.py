"""The README's own commands with real weights, in small and on all of EmojiDG."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.quickstart import FEWER_STEPS, ROOT, run_readme_path
from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.distillation.study.table_formats import write_tables


@pytest.mark.slow
def test_the_readmes_path_ends_in_a_report(quickstart: Path) -> None:
    record = json.loads((quickstart / "runs/quickstart/run.json").read_text())
    accuracy = record["accuracy"]
    target = accuracy["target"]
    # Even a sixth of the recipe's images, of a fifth of EmojiDG's, carries the teacher's robustness over.
    assert accuracy["student"][target] > accuracy["linear_probe"][target] + 0.08
    assert accuracy["teacher"][target] > accuracy["linear_probe"][target] + 0.2
    report = read_report(quickstart / "reports/quickstart/report.json")
    assert report.measurements.images.target == target
    measured = {"torch:fp32", "onnxruntime:fp32", "onnxruntime:fp16", "onnxruntime:int8", "teacher"}
    assert measured <= set(report.results.engines)
    written = {path.name for path in (quickstart / "reports/quickstart").iterdir()}
    assert written == {
        *("report.html", "report.md", "report.json", "accuracy_cost.png"),
        *("answers.npz", "cascade.json", "cascade.png"),
    }


@pytest.mark.long
def test_the_quickstart_learns_from_the_whole_benchmark(tmp_path: Path) -> None:
    for folder in ("recipes", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    run_readme_path(tmp_path, {"distill": FEWER_STEPS, "benchmark": ["--seconds", "3", "--max-images", "40"]})
    record = json.loads((tmp_path / "runs/quickstart/run.json").read_text())
    accuracy = record["accuracy"]
    target = accuracy["target"]
    assert record["data"]["evaluated"][target] > 200
    # Even a sixth of the recipe's images carries the teacher's domain robustness over.
    assert accuracy["student"][target] > accuracy["linear_probe"][target] + 0.08
    assert accuracy["teacher"][target] > accuracy["linear_probe"][target] + 0.2
    report = read_report(tmp_path / "reports/quickstart/report.json")
    assert report.measurements.images.target == target
    measured = {"torch:fp32", "onnxruntime:fp32", "onnxruntime:int8", "teacher"}
    assert measured <= set(report.results.engines)


@pytest.mark.parametrize(
    "study", ["emojidg_table", "emojidg_tune", "emojidg_tune_64px", "emojidg_variants", "emojidg_prompts"]
)
def test_committed_tables_come_from_the_committed_records(study: str, tmp_path: Path) -> None:
    folder = ROOT / "benchmarks" / "results" / study
    for file in write_tables(tables([folder / "runs.jsonl"]), tmp_path):
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name
