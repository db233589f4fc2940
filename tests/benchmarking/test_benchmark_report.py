"""The forms of a report: terminal, report.json, report.md, the picture; all of them written or none."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tests.helpers.measurements import answers, cell, engine, image_set, measurements, usual
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.report import html
from vl2v_deploy.benchmarking.report.files import json_from_report, read_report, write_report
from vl2v_deploy.benchmarking.report.render import markdown_from_report, print_report
from vl2v_deploy.benchmarking.report.tables import sensitivity_grid
from vl2v_deploy.benchmarking.scenario import Scenario, Server, SingleStream
from vl2v_deploy.benchmarking.schema import (
    Energy,
    GraphWork,
    MachinePeaks,
    OfflineRun,
    Prices,
    Report,
    ServerRun,
    ServerTrial,
    SingleStreamRun,
)
from vl2v_deploy.client.manifest import RunAccuracy
from vl2v_deploy.errors import BenchmarkError

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)
FILES = ["accuracy_cost.png", "report.html", "report.json", "report.md"]


@pytest.fixture(scope="module")
def report() -> Report:
    return judge(usual(), PRICES)


def everything() -> Report:
    """A report in which every optional measurement is there."""
    images = image_set()
    extra: dict[str, Any] = {
        "single_stream": SingleStreamRun(threads=2, samples_s=[0.004] * 100),
        "offline": OfflineRun(threads=2, batch=8, streams=1, images=1000, wall_s=2.0),
        "server": ServerRun(
            threads=2, trials=[ServerTrial(rate_per_s=77.0, samples_s=[0.01] * 1000, dropped=0)]
        ),
        "energy": Energy(meter="rapl", reason=None, joules=100.0, images=10, wall_s=2.0, idle_watts=30.0),
        "work": GraphWork(flops={"fp32": 10**8}, weight_bytes=10**7, input_output_bytes=10**4),
        "file": "student.onnx",
        "sha256": "f" * 64,
    }
    engines = [
        engine("onnxruntime:fp32", answers(images, 80), 4.0, **extra),
        engine("teacher", answers(images, 40), 20.0),
    ]
    peaks = MachinePeaks(
        device="cpu", threads=2, gemm_flops_per_s={"fp32": 1e11}, copy_bytes_per_s=1e10, how={}
    )
    scenario = Scenario(
        batches=(1, 8), roofline=True, energy=True, server=Server(), single_stream=SingleStream()
    )
    return judge(measurements(engines, images, scenario=scenario, machine=[peaks]), PRICES)


def shown(report: Report, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    print_report(report, console)
    return console.export_text()


def test_the_terminal_needs_eighty_columns_and_says_everything_that_matters(report: Report) -> None:
    text = shown(report)
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert flat.startswith(report.results.headline)
    for verdict in report.results.verdicts:
        assert verdict.text in flat
    for name in report.results.engines:
        assert name in flat
    assert "79.0 (74.7-82.7)" in text and "teacher (API)" in text and "OOD: sketch, unseen" in text


def test_names_that_look_like_markup_stay_names() -> None:
    images = image_set(domains=("[red]a[/red]", "[/]", "sketch"))
    one = measurements([engine("onnxruntime:fp32", answers(images, 80), 4.0)], images)
    text = shown(judge(one, PRICES), width=120)
    assert "[red]a[/red]" in text and "[/]" in text


def test_markdown_has_every_verdict_table_and_warning() -> None:
    full = everything()
    text = markdown_from_report(full, "picture.png")
    assert "![accuracy against cost](picture.png)" in text and "nan" not in text.lower()
    for verdict in full.results.verdicts:
        assert verdict.text in text and verdict.threshold in text
    for heading in ("Accuracy by domain", "Timing", "Scenarios", "Memory", "Roofline", "Cost", "How it was"):
        assert f"## {heading}" in text
    assert "MLPerf-style, not MLPerf" in text and "| 500 | 77 |" in text  # offline and server images/s
    assert "| 4 |" in text  # (100 J - 2 s x 30 W) / 10 images
    assert "break-even images = distillation / " in text and f"`{'f' * 64}`" in text
    # 10^8 FLOPs at 10^11 a second: 1000 images a second; bytes allow 999 at batch 1, 7936 at batch 8
    assert "| onnxruntime:fp32 | 1 | 2 | memory | 999 |" in text
    assert "| onnxruntime:fp32 | 8 | 2 | compute | 1,000 |" in text
    odd = image_set(domains=("a|b", "photo", "sketch"))
    piped = judge(measurements([engine("onnxruntime:fp32", answers(odd, 80), 4.0)], odd), PRICES)
    assert r"| a\|b |" in markdown_from_report(piped, "x.png")


def test_json_is_read_back_and_keeps_samples_on_lines(report: Report, tmp_path: Path) -> None:
    text = json_from_report(report)
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    assert read_report(path) == report == read_report(tmp_path)
    raw = json.loads(text)["measurements"]["engines"][0]["cells"][0]["rounds_s"]
    assert f"[ {', '.join(map(str, raw[0]))} ]" in text
    names = report.measurements.images.domains["photo"].names
    assert f'[ "{names[0]}", "{names[1]}", ' in text
    assert text.count("\n") < 6000 and len(text) < 800_000


def test_a_report_of_format_2_is_judged_again_with_the_same_figures(tmp_path: Path) -> None:
    """A report of the demo, which an earlier version wrote."""
    file = tmp_path / "format_2.json"
    file.write_bytes(gzip.decompress(Path(__file__).with_name("report_format_2.json.gz").read_bytes()))
    written, read = json.loads(file.read_text()), read_report(file)
    assert written["format"] == 2 and read.format == 4
    assert read.results.primary == written["results"]["primary"]
    assert read.results.economics.model_dump() == written["results"]["economics"]
    for name, result in read.results.engines.items():
        now, before = result.model_dump(mode="json"), written["results"]["engines"][name]
        before["best"] |= {key: now["best"][key] for key in now["best"].keys() - before["best"].keys()}
        for domain, accuracy in before["domains"].items():
            assert now["domains"][domain].pop("ece") == pytest.approx(accuracy.pop("ece"))
        assert now == before
    (tmp_path / "report.json").write_text(json_from_report(read))
    assert read_report(tmp_path) == read


def test_json_survives_names_with_brackets_quotes_and_newlines() -> None:
    images = image_set(n=8, domains=('x"]\n["y', "[1,\n 2]", "sketch"))
    odd = judge(measurements([engine("onnxruntime:fp32", answers(images, 2), 4.0)], images), PRICES)
    assert Report.model_validate_json(json_from_report(odd)) == odd


def test_all_files_are_written(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == FILES
    with Image.open(tmp_path / "new" / "folder" / "accuracy_cost.png") as picture:
        assert picture.width > 1200 and len(picture.convert("RGB").getcolors(10**6) or []) > 20


def test_a_failure_leaves_what_was_there(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.json").write_text("of yesterday")
    monkeypatch.setattr(html, "charts_of", lambda _: (_ for _ in ()).throw(BenchmarkError("no charts today")))
    with pytest.raises(BenchmarkError, match="no charts"):
        write_report(report, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "of yesterday"


def test_a_report_of_nothing_measured_is_still_written(tmp_path: Path) -> None:
    images = image_set()
    failed = engine("onnxruntime:fp32", {}, 1.0, status="failed", reason="died of it", cells=[], processes=[])
    nothing = judge(measurements([failed], images), PRICES)
    write_report(nothing, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES[1:]
    for name in ("report.md", "report.html"):
        assert "died of it" in (tmp_path / name).read_text()
    assert "died of it" in shown(nothing)


@pytest.mark.parametrize(
    "prices",
    [
        {"usd_per_hour": 0.0, "usd_per_1k_queries": 0.0},
        {"usd_per_hour": 0.0, "usd_per_1k_queries": 0.1},
        {"usd_per_hour": 0.0, "teacher_usd_per_hour": 1.0},
        {"usd_per_hour": 1.0, "teacher_usd_per_hour": 0.0},
    ],
)
def test_what_is_free_is_not_on_a_logarithmic_axis(prices: dict[str, float], tmp_path: Path) -> None:
    write_report(judge(usual(), Prices(**prices)), tmp_path)  # a warning of matplotlib would be an error
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_what_the_teacher_runs_in_is_told_where_it_was_measured() -> None:
    m = usual()
    told = "The teacher runs in torch"
    assert told in markdown_from_report(judge(m, PRICES), "x.png")
    alone = m.model_copy(update={"engines": m.engines[:-1]})
    assert told not in markdown_from_report(judge(alone, PRICES), "x.png")


def test_near_utilisations_have_columns_of_their_own_names() -> None:
    grid = sensitivity_grid(judge(usual(), Prices(usd_per_hour=1.0, utilisation=0.254)))
    assert grid.columns[1:] == ("5%", "10%", "25%", "25.4%", "50%", "75%", "100%")


def test_a_teacher_that_was_not_measured_is_shown_as_recorded(tmp_path: Path) -> None:
    images = image_set()
    one = measurements([engine("onnxruntime:fp32", answers(images, 80), 4.0)], images)
    accuracy = RunAccuracy("sketch", {}, teacher={"clip art": 0.96, "photo": 0.94, "sketch": 0.93})
    bundle = one.bundle.model_copy(update={"recorded_accuracy": accuracy})
    report = judge(one.model_copy(update={"bundle": bundle}), PRICES)
    write_report(report, tmp_path)
    row = next(line for line in shown(report).splitlines() if line.startswith("teacher (recorded)"))
    assert row.split()[2:] == ["95.0", "93.0", "-", "-", "100", "-"]
    assert "teacher, as recorded" in (tmp_path / "report.html").read_text()


def test_means_stand_in_where_samples_are_few(tmp_path: Path) -> None:
    images = image_set()
    few = [cell(0.004, rounds=4, per_round=2)]
    report = judge(
        measurements([engine("onnxruntime:fp32", answers(images, 80), 4.0, cells=few)], images), Prices()
    )
    write_report(report, tmp_path)
    assert "mean ms" in shown(report) and "mean latency, batch 1" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "format: expected 4, got None"),
        ('{"schema": 1}', "format: expected 4, got 1; measure again"),
        ('{"format": 5}', "format: expected 4, got 5; measure again"),
        ('{"format": 4, "prices": {"usd_per_hour": -1}}', "is not a report: measurements: is required"),
        ('{"format": 2, "measurements": []}', "is not a report"),
        ('{"format": 2, "measurements": {"engines": [null]}}', "is not a report"),
        ("{", "is not JSON"),
    ],
)
def test_a_file_that_is_no_report_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=message) as caught:
        read_report(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_out_that_is_a_file_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be a report directory"):
        write_report(report, tmp_path / "out")
