"""The README's own commands with real weights, in small and on all of EmojiDG; and README against CLI."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from tests.helpers.quickstart import FEWER_STEPS, README, ROOT, blocks, run_readme_path
from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.distillation.study.table_formats import write_tables


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vl2v-deploy ")]


def test_every_command_in_the_readme_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(commands()) >= 5
    for arguments in commands():
        command: click.Command = cli
        rest = arguments
        while isinstance(command, click.Group):
            command, rest = command.commands[rest[0]], rest[1:]
        parser = command.make_parser(click.Context(command))
        values, _, _ = parser.parse_args(args=rest)
        assert values is not None


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
    assert written == {"report.html", "report.md", "report.json", "accuracy_cost.png"}


@pytest.mark.slow
def test_the_readmes_programs_run(quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bundles").symlink_to(quickstart / "bundles")
    snippets = [block for block in blocks("python") if "Student.load" in block]
    Path("photo.jpg").write_bytes(Path("bundles/quickstart/golden/00.webp").read_bytes())
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    assert len(snippets) == 2


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
    measured = {"torch:fp32", "onnxruntime:fp32", "onnxruntime:fp16", "onnxruntime:int8", "teacher"}
    assert measured <= set(report.results.engines)


def test_the_readmes_words_about_the_demo_are_the_committed_ones() -> None:
    results = ROOT / "benchmarks" / "results"
    report = read_report(results / "quickstart_cpu-2core.json")
    run = json.loads((results / "quickstart_run.json").read_text())
    assert report.measurements.recipe_sha256 == run["recipe_sha256"]
    target, primary = run["accuracy"]["target"], report.results.primary
    assert primary is not None
    student, teacher = report.results.engines[primary], report.results.engines["teacher"]
    speed = student.best.images_per_s / teacher.best.images_per_s
    kept = [100 * engine.domains[target].accuracy for engine in (student, teacher)]
    assert f"answers {speed:.1f} times as many images a second as the teacher" in README
    assert f"keeps {kept[0]:.1f} of its {kept[1]:.1f} points" in README
    assert f"has {100 * run['accuracy']['linear_probe'][target]:.1f}." in README
    assert not re.search(r"\b[A-Z]+_[A-Z]{3,}\b", README)  # a figure still to be filled in


def result_of(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}_cpu-2core.json").read_text())


def test_the_readmes_words_about_the_client_are_the_committed_ones() -> None:
    readme = " ".join(README.split())
    cnn, vit = (model["sizes"]["640x480"] for model in result_of("inference")["models"].values())
    reached = [sizes["goal"]["reached"] for sizes in (cnn, vit)]
    assert "for the CNN ({:.2f}; half was the goal) and the ViT ({:.2f}; 0.8".format(*reached) in readme
    over = [100 * (share - 1) for sizes in (cnn, vit) for share in sizes["ours_over_floor"].values()]
    assert (
        "adds {:.1f} and {:.1f} % to the floor for the CNN, {:.1f} % for the ViT in fp32".format(*over)
        in readme
    )
    assert f"for the ViT in int8 the two differ by {over[3]:.0f} %" in readme
    assert f"client adds {result_of('client_import')['client_adds_ms']:.0f} ms" in readme

    drawings = result_of("jpeg_draft")["sizes_px"].values()
    whole, ours = ([size["decodings"][kind] for size in drawings] for kind in ("whole", "2 S"))
    assert {size["images"] for size in drawings} == {1236} and "on 1,236 test drawings" in readme
    shares = [f"{100 * row['accuracy']:.2f}" for row in (*ours, *whole)]
    assert "{} and {} % against {} and {} % decoded whole".format(*shares) in readme
    same = [f"{100 * row['same_label_as_whole']:.1f}" for row in ours]
    fast = [f"1/{row['times_as_fast_as_whole']:.1f}" for row in ours]
    assert f"same label on {' and '.join(same)} %, in {' and '.join(fast)} of the time" in readme

    soak = result_of("soak")
    assert soak["wrong"] == [] and soak["seconds"] == 120 and soak["threads"] == 10
    megabytes = [soak["memory"][part] / 1e6 for part in ("middle_bytes", "last_bytes")]
    assert f"{soak['answered']:,} answers" in readme and f"{soak['refused']:,} images refused" in readme
    assert "memory {:.0f} then {:.0f} MB".format(*megabytes) in readme


def test_the_readmes_table_is_the_committed_one() -> None:
    folder = ROOT / "benchmarks" / "results" / "emojidg_table"
    table = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + 10
    assert "\n".join(table) in README
    records = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    adip = [r["accuracy"] for r in records if r["method"] == "adip"]
    average = 100 * sum(a["student"][a["target"]] for a in adip) / len(adip)
    [row] = [line for line in table if line.startswith("| VL2V-ADiP ")]
    assert f"{average:.1f}" in row


@pytest.mark.parametrize("study", ["emojidg_table", "emojidg_tune"])
def test_committed_tables_come_from_the_committed_records(study: str, tmp_path: Path) -> None:
    folder = ROOT / "benchmarks" / "results" / study
    for file in write_tables(tables([folder / "runs.jsonl"]), tmp_path):
        assert file.read_bytes() == (folder / file.name).read_bytes(), file.name
