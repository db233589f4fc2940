"""What changed between two reports: found when it did, not when it was noise; refused where none can say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.helpers.measurements import DEVICE, answers, cell, engine, image_set, measurements, usual
from vl2v_deploy.benchmarking.judge.compare import Change, ReportDiff, compare_reports
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.report.files import json_from_report
from vl2v_deploy.benchmarking.scenario import Scenario
from vl2v_deploy.benchmarking.schema import EngineMeasurement, ImageSet, Prices, ProcessFacts, Report
from vl2v_deploy.cli.main import cli
from vl2v_deploy.errors import BenchmarkError

NAME = "onnxruntime:fp32"
IMAGES = image_set()
GROUPED = image_set(group_size=8)


def report(*engines: EngineMeasurement, images: ImageSet = IMAGES, **changes: Any) -> Report:
    return judge(measurements(engines, images, **changes), Prices(usd_per_hour=1.0))


def student(
    ms: float = 4.0,
    *,
    wrong: int | Mapping[str, int] = 80,
    images: ImageSet = IMAGES,
    name: str = NAME,
    **changes: Any,
) -> EngineMeasurement:
    return engine(name, answers(images, wrong), ms, **changes)


def row(comparison: ReportDiff, what: str) -> Change:
    (found,) = [row for row in comparison.rows if row.what == what]
    return found


def test_a_report_against_itself_has_not_changed() -> None:
    same = judge(usual(), Prices(usd_per_hour=1.0))
    comparison = compare_reports(same, same)
    assert not comparison.regression and comparison.versions == {}
    assert {row.verdict for row in comparison.rows} == {"same", "not judged"}
    assert {row.engine for row in comparison.rows} == set(same.results.engines)


def test_a_slowdown_of_a_fifth_is_found_in_time_and_throughput() -> None:
    comparison = compare_reports(report(student(4.0, seed=1)), report(student(4.8, seed=2)))
    assert comparison.regression
    assert row(comparison, "latency ms").verdict == row(comparison, "images/s").verdict == "worse"
    assert row(comparison, "latency ms").change.startswith("x1.2")
    assert row(comparison, "images/s").change.startswith("x0.8")
    back = compare_reports(report(student(4.8, seed=2)), report(student(4.0, seed=1)))
    assert not back.regression and row(back, "latency ms").verdict == "better"


def test_noise_and_a_change_inside_the_band_are_no_change() -> None:
    noise = compare_reports(report(student(4.0, seed=1, noise=0.1)), report(student(4.0, seed=2, noise=0.1)))
    assert not noise.regression
    inside = compare_reports(report(student(4.0, seed=1)), report(student(4.12, seed=2)))
    assert row(inside, "latency ms").verdict == "same"
    tight = compare_reports(
        report(student(4.0, seed=1, noise=0.002)), report(student(4.12, seed=2, noise=0.002)), noise=0.01
    )
    assert row(tight, "latency ms").verdict == "worse"


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_false_alarms_are_rare(noise: float) -> None:
    # 150 pairs of runs that differ in nothing but noise; drift between rounds is half the noise
    alarms = 0
    for seed in range(150):
        ours = report(student(cells=[cell(0.004, seed=2 * seed, noise=noise, per_round=8)]))
        theirs = report(student(cells=[cell(0.004, seed=2 * seed + 1, noise=noise, per_round=8)]))
        alarms += any(r.verdict in ("worse", "better") for r in compare_reports(ours, theirs).rows)
    assert alarms <= 3


def test_too_few_rounds_are_unclear_not_a_regression() -> None:
    def few(seconds: float) -> Report:
        cells = [cell(seconds, rounds=3)]
        return report(student(cells=cells))

    comparison = compare_reports(few(0.004), few(0.008))
    assert row(comparison, "latency ms").verdict == "unclear" and not comparison.regression
    assert "at least 4 rounds" in row(comparison, "latency ms").threshold


def test_a_drop_in_accuracy_is_found_on_the_same_images() -> None:
    worse = {"clip art": 80, "photo": 80, "sketch": 92}
    comparison = compare_reports(report(student()), report(student(wrong=worse)))
    assert row(comparison, "OOD accuracy %").verdict == "worse"
    assert row(comparison, "OOD accuracy %").change.startswith("-3.0 (")
    assert "McNemar" in row(comparison, "OOD accuracy %").threshold
    assert row(comparison, "ID accuracy, pooled %").verdict == "same" and comparison.regression


def test_three_images_of_four_hundred_are_no_drop() -> None:
    comparison = compare_reports(report(student()), report(student(wrong=83)))
    assert row(comparison, "OOD accuracy %").verdict == "same" and not comparison.regression


def test_with_groups_whole_groups_must_fall_for_it() -> None:
    def grouped(missed: Sequence[int]) -> Report:
        right = answers(GROUPED, 0)
        labels = [(label + (i in missed)) % 4 for i, label in enumerate(right["sketch"].labels)]
        sketch = right["sketch"].model_copy(update={"labels": labels})
        return report(engine(NAME, right | {"sketch": sketch}, 4.0), images=GROUPED)

    # sixteen images: of two groups they may be chance, one from each of sixteen groups they are not
    two = compare_reports(grouped([]), grouped(range(16)))
    many = compare_reports(grouped([]), grouped(range(0, 128, 8)))
    assert row(two, "OOD accuracy %").verdict == "same"
    assert row(many, "OOD accuracy %").verdict == "worse"
    assert "bootstrap over 50 groups" in row(many, "OOD accuracy %").threshold


def process(**changes: Any) -> list[ProcessFacts]:
    values: dict[str, Any] = {"threads": 2, "provider": "cpu", "load_s": 0.2, "peak_rss_bytes": 200_000_000}
    return [ProcessFacts(**values | {"versions": {}} | changes)]


def test_memory_and_size_have_bands_of_their_own() -> None:
    before = report(student(processes=process(gpu_memory_bytes=10**9)))
    more = process(peak_rss_bytes=230_000_000, gpu_memory_bytes=10**9)
    grown = student(processes=more, model_bytes=16_000_000)
    comparison = compare_reports(before, report(grown))
    assert row(comparison, "peak RSS MB").verdict == row(comparison, "model MB").verdict == "worse"
    assert row(comparison, "GPU MB").verdict == "same"
    little = student(processes=process(peak_rss_bytes=215_000_000), model_bytes=14_100_000)
    comparison = compare_reports(before, report(little))
    assert not comparison.regression and "GPU MB" not in {row.what for row in comparison.rows}


def test_an_engine_that_no_longer_runs_is_a_regression_and_a_new_one_is_not() -> None:
    failed = student(status="failed", reason="stalled", cells=[], processes=[])
    other = student(name="openvino:fp32")
    comparison = compare_reports(report(student(), other), report(failed, other))
    assert comparison.regression and row(comparison, "engine").after == "failed: stalled"
    assert compare_reports(report(student(), other), report(student())).regression
    assert not compare_reports(report(student()), report(student(), other)).regression


@pytest.mark.parametrize(
    ("asked", "regression"),
    [
        ({"engines": (NAME,)}, False),
        ({"engines": ("files",)}, False),
        ({"engines": (NAME, "openvino:fp32")}, True),
        ({"engines": ("all", "files")}, True),
    ],
)
def test_an_engine_that_is_no_longer_asked_for_is_no_regression(
    asked: dict[str, Any], regression: bool
) -> None:
    scenario = Scenario(batches=(1, 8))
    teacher = student(name="teacher", kind="teacher")
    before = report(
        student(),
        student(name="openvino:fp32"),
        teacher,
        scenario=scenario.model_copy(update={"engines": ("all",), "teacher": True}),
    )
    after = report(student(), scenario=scenario.model_copy(update=asked))
    comparison = compare_reports(before, after)
    lost = {row.engine: row.verdict for row in comparison.rows if row.what == "engine"}
    assert lost == {"openvino:fp32": "worse" if regression else "not judged", "teacher": "not judged"}
    assert comparison.regression == regression


def test_a_slowdown_that_is_not_sure_is_unclear_and_not_the_same() -> None:
    def noisy(seconds: float) -> Report:
        rounds = [[seconds * factor] * 20 for factor in (0.5, 1.0, 1.0, 2.0, 0.6, 1.7)]
        return report(student(cells=[cell(seconds, rounds_s=rounds, wall_s=[sum(r) for r in rounds])]))

    comparison = compare_reports(noisy(0.004), noisy(0.0052))
    assert row(comparison, "latency ms").verdict == row(comparison, "images/s").verdict == "unclear"
    assert not comparison.regression
    assert row(compare_reports(noisy(0.004), noisy(0.0041)), "latency ms").verdict == "same"


def test_load_time_and_cost_are_not_judged() -> None:
    before = report(student(processes=process(load_s=0.2)))
    after = report(student(processes=process(load_s=9.0)))
    comparison = compare_reports(before, after)
    assert row(comparison, "load s").verdict == row(comparison, "$/million").verdict == "not judged"
    assert not comparison.regression


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"device": DEVICE | {"cpu": "Another"}},
            r"device\.cpu: expected the same.*CPU and Another",
        ),
        ({"device": DEVICE | {"physical_cores": 4}}, r"device\.physical_cores: .* got 2 and 4"),
        ({"device": DEVICE | {"gpu": "H200"}}, r"device\.gpu: .* got None and H200"),
        ({"scenario": Scenario(batches=(1, 16))}, r"scenario\.batches: .*one scenario file"),
        (
            {"images": image_set(n=399)},
            r"images\.clip art: .* got 400 images and 399 images, 399 of them",
        ),
        ({"images": image_set(domains=("clip art", "photo", "art"))}, r"images\.target: .* sketch and art"),
        ({"classes": ("a", "b", "c", "d")}, "classes: expected the same"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    images = changes.pop("images", IMAGES)
    scenario = {"scenario": Scenario(batches=(1, 8))} | changes
    other = report(student(wrong=80, images=images), images=images, **scenario)
    with pytest.raises(BenchmarkError, match=message):
        compare_reports(report(student(), scenario=Scenario(batches=(1, 8))), other)


def test_as_many_images_with_the_same_labels_are_not_the_same_images() -> None:
    photo = IMAGES.domains["photo"]
    renamed = photo.model_copy(update={"names": ["photo/other.png", *photo.names[1:]]})
    images = IMAGES.model_copy(update={"domains": IMAGES.domains | {"photo": renamed}})
    with pytest.raises(BenchmarkError, match=r"images\.photo: .* 400 images, 399 of them the same"):
        compare_reports(report(student()), report(student(images=images), images=images))


def test_engines_and_system_may_differ_and_versions_are_listed() -> None:
    before = report(student(), scenario=Scenario(engines=("files",)))
    after = report(
        student(processes=process(versions={"openvino": "2026.4"})),
        scenario=Scenario(engines=("all",), teacher=True),
        device=DEVICE | {"system": "Linux 7"},
        versions={"python": "3.11.7", "numpy": "2.5.0"},
    )
    assert compare_reports(before, after).versions == {
        "numpy": ("2.4.6", "2.5.0"),
        "onnxruntime": ("1.32.0", "none"),
        f"openvino of {NAME}": ("none", "2026.4"),
        "system": ("Linux", "Linux 7"),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Reports on disk, by what is in them."""
    folder = tmp_path_factory.mktemp("reports")
    made = {
        "before": report(student(4.0, seed=1)),
        "slower": report(student(5.0, seed=2)),
        "elsewhere": report(student(4.0, seed=1), device=DEVICE | {"cpu": "Another"}),
    }
    paths = {}
    for name, one in made.items():
        path = folder / name / "report.json"
        path.parent.mkdir()
        path.write_text(json_from_report(one), encoding="utf-8")
        paths[name] = str(path)
    return paths


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *arguments])


def test_exit_codes_tell_a_regression_from_a_bad_call(files: dict[str, str], tmp_path: Path) -> None:
    assert run(files["before"], files["before"]).exit_code == 0
    slower = run(files["before"], files["slower"])
    assert slower.exit_code == 1 and "A regression." in slower.output
    assert all(len(line) <= 80 for line in slower.output.splitlines())
    assert run(files["slower"], files["before"]).exit_code == 0
    assert run(files["before"], files["slower"], "--noise", "60").exit_code == 0
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "old.json").write_text('{"schema": 1}')
    for other, words in (
        (files["elsewhere"], "device.cpu"),
        (str(tmp_path / "none.json"), "cannot be read"),
        (str(tmp_path / "broken.json"), "is not JSON"),
        (str(tmp_path / "old.json"), "format: expected 4, got 1"),
    ):
        result = run(files["before"], other)
        assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output
    assert run(files["before"]).exit_code == 2
    assert run(files["before"], files["before"], "--noise", "-1").exit_code == 2


def test_json_is_the_comparison(files: dict[str, str]) -> None:
    # a directory stands for the report.json in it
    result = run(files["before"], str(Path(files["slower"]).parent), "--json")
    assert result.exit_code == 1
    read = ReportDiff.model_validate(json.loads(result.output))
    assert read.regression and row(read, "latency ms").verdict == "worse" and read.noise == 0.05
