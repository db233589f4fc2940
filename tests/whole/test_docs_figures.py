"""Tables and figures of README and docs are those of the committed results, and one that is not is found."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.docs_campaign import CAMPAIGN
from benchmarks.docs_demo import PARTS, STEP
from benchmarks.docs_figures import CLOSE, FIGURE, OPEN, ROOT, main
from benchmarks.docs_results import (
    BUDGETS,
    DEMO,
    INFERENCE,
    LOOP,
    MANIFEST,
    METHODS,
    PRECISIONS,
    PROMPTS,
    TABLES,
    UNTIL,
    VENDOR,
    figures,
    vendor_figures,
)
from benchmarks.docs_scale import SCALE
from benchmarks.docs_trials import AFTER, BACKBONES, FRONTIER, MORE, SELECTION, UNLABELLED, backbones_table
from tests.helpers.measurements import usual
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.report.files import json_from_report
from vl2v_deploy.benchmarking.schema import Prices
from vl2v_deploy.errors import BenchmarkError

RESULTS = ROOT / "benchmarks" / "results"


DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def run(readme: Path, results: Path, *options: str) -> Result:
    return CliRunner().invoke(main, [str(readme), "--results", str(results), *options])


def test_the_committed_documents_say_what_the_committed_results_say() -> None:
    result = CliRunner().invoke(main, ["--check"])
    assert result.exit_code == 0, result.output
    assert result.output.count("up to date") == len(DOCUMENTS) > 5


def test_every_table_and_figure_stands_in_a_document() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    shown = {found["name"] for line in text.split("\n") if (found := OPEN.match(line))}
    assert shown == TABLES.keys()
    # Some methods' own averages are only in the table.
    unshown = figures(RESULTS).keys() - {found["name"] for found in FIGURE.finditer(text)}
    assert {name for name in unshown if not name.startswith("methods.")} <= {"jpeg.1024.images"}


def test_no_figure_begins_a_line() -> None:
    """A comment that begins a line is a block of its own in Markdown, which cuts the sentence in two."""
    begun = {
        path.name: re.findall(r"^ *<!--f:.*", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for path in DOCUMENTS
    }
    assert {name: lines for name, lines in begun.items() if lines} == {}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The committed results of the precisions; a made-up report and comparison, whose numbers are known."""
    folder = tmp_path / "results"
    folder.mkdir()
    for table in (METHODS, BUDGETS, PROMPTS):
        (folder / table).parent.mkdir()
    (folder / UNLABELLED).parent.mkdir()
    trials = (UNLABELLED, MORE, SELECTION, AFTER, BACKBONES, FRONTIER)
    for name in (
        PRECISIONS,
        MANIFEST,
        METHODS,
        BUDGETS,
        PROMPTS,
        PARTS,
        STEP,
        LOOP,
        UNTIL,
        CAMPAIGN,
        SCALE,
        *trials,
    ):
        shutil.copyfile(RESULTS / name, folder / name)
    for name in ("drift", "cascade"):
        shutil.copytree(RESULTS / name, folder / name)
    (folder / DEMO).write_text(json_from_report(judge(usual(), Prices(usd_per_hour=1.0))))
    (folder / INFERENCE).write_text(json.dumps(inference()))
    return folder


def inference() -> dict[str, Any]:
    def size(ours: float | None) -> dict[str, Any]:
        ratio = {} if ours is None else {"our bundle, int8": ours / 8}
        engines = {"torch eager": {"p50_ms": 8.0}, "our bundle, int8": {"p50_ms": ours}}
        return {"engines": engines, "ratio_to_best_fp32_peer": {"torch eager": 1.0, **ratio}}

    return {"models": {"cnn": {"sizes": {"640x480": size(3.0), "1920x1440": size(None)}}}}


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    sections = [f"## {name}\n\n<!-- table: {name} -->\nold\n{CLOSE}\n\nafter {name}" for name in TABLES]
    path.write_text("# title\n\n" + "\n".join(sections) + "\n")
    return path


def test_backbones_that_failed_stand_in_the_table_too(tmp_path: Path) -> None:
    made = {
        "backbone": "good",
        "image_size_px": 224,
        "parameters": 1_250_000,
        "macs": 2_500_000_000,
        "macs_uncounted": ["1 operation(s) with GRU"],
        "fp32": {"min_cosine": 1.0},
        "fp16": {"error": "cannot run in fp16"},
        "int8": {"error": "cannot be made"},
        "latency": {"fp32_to_reference": 1.5},
    }
    lines = [made, {"backbone": "bad", "error": "bad cannot be exported"}]
    (tmp_path / BACKBONES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert backbones_table(tmp_path).rows == [
        ("`good`", "224", "1.2", "over 2.50", "yes", "no", "no", "1.50", "-"),
        ("`bad`", *7 * ("-",), "no: bad cannot be exported"),
    ]


def test_tables_are_written_once_and_then_up_to_date(readme: Path, results: Path) -> None:
    assert run(readme, results, "--check").exit_code == 1
    written = run(readme, results)
    assert written.exit_code == 0, written.output
    assert f"README.md: {', '.join(TABLES)}; figures: 0: written" in written.output
    text = readme.read_text()
    assert "old" not in text
    assert all(f"after {name}" in text for name in TABLES)
    assert "| torch eager | 8.00 ms (1.00) | 8.00 ms (1.00) |" in text
    assert "| our bundle, int8 | 3.00 ms (0.38) | failed |" in text
    again = run(readme, results, "--check")
    assert again.exit_code == 0, again.output
    assert "up to date" in again.output
    assert run(readme, results).exit_code == 0
    assert readme.read_text() == text


def trial(variant: str, target: str, seed: int, ood: float) -> dict[str, Any]:
    rest = dict.fromkeys(("id", "source_val", "held_out_agreement"), 0.5)
    return {"variant": variant, "target": target, "seed": seed, "ood": ood, "adapted": False} | rest


def test_a_variant_is_compared_on_the_targets_and_seeds_that_both_have(tmp_path: Path) -> None:
    base, tried = tmp_path / UNLABELLED, tmp_path / MORE
    base.parent.mkdir()
    lines = [trial("unlabelled + cosine", target, seed, 0.5) for target in "ab" for seed in (0, 1)]
    base.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [
        trial("both, larger", "a", 0, 0.6),
        trial("both, larger", "b", 1, 0.48),
        trial("both, larger", "c", 0, 1),
    ]
    tried.write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = ("unlabelled + cosine: larger", "+4.0", "1 of 2", "+0.0", "+0.0", "+0.0")
    assert TABLES["variants"](tmp_path).rows == [expected]
    tried.write_text(json.dumps(trial("cosine, larger", "a", 0, 0.6)) + "\n")
    with pytest.raises(BenchmarkError, match="no run of cosine"):
        TABLES["variants"](tmp_path)


def test_the_unlabelled_table_has_whole_seeds_alone(tmp_path: Path) -> None:
    lines = [trial(v, t, s, 0.5 + 0.1 * s) for s in (0, 1) for v in ("plain", "more") for t in ("a", "b")]
    file = tmp_path / UNLABELLED
    file.parent.mkdir()
    file.write_text("".join(json.dumps(each) + "\n" for each in [*lines, trial("plain", "a", 2, 0.9)]))
    grid = TABLES["unlabelled"](tmp_path)
    assert grid.rows[0] == ("plain", "55.0 ± 5.0", "55.0 ± 5.0", "55.0 ± 5.0", *["50.0 ± 0.0"] * 3, "2")
    adapted = [each | {"adapted": each["variant"] == "more" and each["target"] == "b"} for each in lines]
    file.write_text("".join(json.dumps(each) + "\n" for each in adapted))
    marked = [[cell.endswith("†") for cell in row] for row in TABLES["unlabelled"](tmp_path).rows]
    assert marked == [[False] * 8, [False, False, True, True, *[False] * 4]]
    file.write_text("".join(json.dumps(each) + "\n" for each in lines[:-1]))
    assert TABLES["unlabelled"](tmp_path).rows[1][1] == "50.0"
    file.write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[3]) + "\n")
    with pytest.raises(BenchmarkError, match="no seed"):
        TABLES["unlabelled"](tmp_path)


def test_the_precisions_are_the_results_own(readme: Path, results: Path) -> None:
    run(readme, results)
    speeds = json.loads((results / PRECISIONS).read_text())["batches"]
    manifest = json.loads((results / MANIFEST).read_text())["precisions"]
    for precision, record in manifest.items():
        [line] = [line for line in readme.read_text().split("\n") if line.startswith(f"| `{record['file']}`")]
        cells = [cell.strip(" x") for cell in line.split("|")[2:-1]]
        expected = [
            record["bytes"] / 1e6,
            *(speeds[batch][precision]["times_as_fast_as_fp32"] for batch in ("1", "8")),
            100 * record["accuracy"]["id"],
            100 * record["accuracy"]["ood"],
        ]
        assert [float(cell) for cell in cells] == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_figure_is_found(name: str, readme: Path, results: Path) -> None:
    run(readme, results)
    text = readme.read_text()
    start = text.index(f"table: {name} ")
    digit = re.compile(r"\d").search(text, text.index("---:", start))
    assert digit is not None
    changed = str((int(digit[0]) + 1) % 10)
    readme.write_text(text[: digit.start()] + changed + text[digit.end() :])
    found = run(readme, results, "--check")
    assert found.exit_code == 1
    number = text.count("\n", 0, digit.start()) + 1
    assert re.search(rf"line {number}: is ['\"]\|", found.output)
    assert run(readme, results).exit_code == 0
    assert readme.read_text() == text


def test_changed_results_are_found(readme: Path, results: Path) -> None:
    run(readme, results)
    report = inference()
    report["models"]["cnn"]["sizes"]["640x480"]["engines"]["our bundle, int8"]["p50_ms"] = 4.0
    (results / INFERENCE).write_text(json.dumps(report))
    found = run(readme, results, "--check")
    assert found.exit_code == 1
    assert "is '| our bundle, int8 | 3.00 ms" in found.output
    assert "the results say '| our bundle, int8 | 4.00 ms" in found.output


def test_files_measured_of_another_bundle_are_refused(readme: Path, results: Path) -> None:
    speeds = json.loads((results / PRECISIONS).read_text())
    speeds["bundle"]["files"]["int8"]["sha256"] = "0" * 64
    (results / PRECISIONS).write_text(json.dumps(speeds))
    found = run(readme, results)
    assert found.exit_code == 1
    assert "its student.int8.onnx is not the one of precisions_manifest.json" in found.output


def test_a_changed_figure_in_a_sentence_is_found(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("It takes <!--f:client.import_ms-->?<!--/f--> ms.\n")
    assert run(path, RESULTS).exit_code == 0
    added_ms = json.loads((RESULTS / "client_import_cpu-2core.json").read_text())["client_adds_ms"]
    assert path.read_text() == f"It takes <!--f:client.import_ms-->{added_ms:.0f}<!--/f--> ms.\n"
    path.write_text("It takes <!--f:client.import_ms-->1000<!--/f--> ms.\n")
    found = run(path, RESULTS, "--check")
    assert found.exit_code == 1 and "line 1" in found.output


@pytest.mark.parametrize(
    "changed", [{"held": 999}, {"billed": 10**6}, {"paid_twice": 10**6}, {"killed": 0, "paid_twice": 0}]
)
def test_a_purchase_that_lost_something_gives_no_figures(changed: dict[str, int], tmp_path: Path) -> None:
    report = json.loads((RESULTS / VENDOR).read_text())
    (tmp_path / VENDOR).write_text(json.dumps(report))
    assert vendor_figures(tmp_path)["vendor.kills"] == str(report["kills"]["killed"])
    report["kills"] |= changed
    (tmp_path / VENDOR).write_text(json.dumps(report))
    with pytest.raises(BenchmarkError):
        vendor_figures(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: demo -->\n", r"table 'demo' does not end"),
        ("<!-- /table -->\n", r"line 1: <!-- /table --> ends no table"),
        (
            "<!-- table: precisions -->\n<!-- table: demo -->\n<!-- /table -->\n",
            r"line 2: .*'precisions' has not ended",
        ),
        ("<!-- table: precision -->\n<!-- /table -->\n", r"no table 'precision'; did you mean 'precisions'"),
        (
            "<!-- table: precisions -->\n<!-- /table -->\n" * 2,
            r"line 3: table 'precisions' stands there twice",
        ),
        ("<!--f:client.import-->1<!--/f-->\n", r"no figure 'client.import'; did you mean 'client.import_ms'"),
        ("<!--f:client.import_ms-->1\n", r"figure does not end"),
    ],
)
def test_wrong_markers_are_refused_and_nothing_is_written(
    text: str, message: str, tmp_path: Path, results: Path
) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    result = run(path, results if "table" in text else RESULTS)
    assert result.exit_code == 1
    assert re.search(message, result.output)
    assert path.read_text() == text


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("{", "JSON"), ("{}", "form")])
@pytest.mark.parametrize("file", [DEMO, INFERENCE])
def test_results_that_are_missing_or_of_another_form(
    file: str, content: str | None, message: str, readme: Path, results: Path
) -> None:
    if content is None:
        (results / file).unlink()
    else:
        (results / file).write_text(content)
    result = run(readme, results)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert message in result.output
