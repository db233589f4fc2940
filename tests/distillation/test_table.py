"""Tables against numbers worked out by hand; what may not stand side by side does not."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt
from rich.console import Console

from tests.helpers.run_folders import SWAD, stages, write_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.study.comparison import Mean
from vl2v_deploy.distillation.study.figures import draw_figures
from vl2v_deploy.distillation.study.table import Table, tables
from vl2v_deploy.distillation.study.table_formats import print_tables, write_tables
from vl2v_deploy.errors import RunError
from vl2v_deploy.escapes import markdown_text
from vl2v_deploy.names import shown

#       paint, photo of each trial
ADIP = [(0.60, 0.80), (0.70, 0.84), (0.80, 0.88)]
ERM = [(0.50, 0.90), (0.50, 0.90), (0.50, 0.90)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two methods, two targets, three trials, as `distill` lays them out."""
    for method, trials in (("adip", ADIP), ("erm", ERM)):
        for trial, shares in enumerate(trials):
            for target, ood in zip(("paint", "photo"), shares, strict=True):
                write_run(
                    tmp_path / method / target / f"trial-{trial}",
                    method=method,
                    target=target,
                    trial=trial,
                    ood=ood,
                    source=0.9 if target == "paint" else 0.7,
                    macro_f1=ood - 0.1,
                    ece=0.04 if method == "adip" else 0.12,
                )
    return tmp_path


def column(table: Table, name: str) -> dict[str, Mean | None]:
    place = table.columns.index(name)
    return {row.label: cells[place] for row, cells in zip(table.rows, table.cells, strict=True)}


def mean_of(table: Table, name: str, label: str) -> tuple[float, float | None]:
    found = column(table, name)[label]
    assert found is not None
    return found.mean, found.se


def bold(table: Table) -> dict[str, list[str]]:
    return {
        name: [table.rows[row].label for row, place in sorted(table.best) if place == number]
        for number, name in enumerate(table.columns)
    }


def printed(made: list[Table], width: int = 240) -> str:
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        print_tables(made, console)
    return console.export_text()


def test_cells_by_hand(study: Path) -> None:
    [table] = tables([study])
    assert table.columns == ("paint", "photo", "average", "worst", "ID", "source val", "macro-F1", "ECE")
    assert [row.label for row in table.rows] == ["ERM", "VL2V-ADiP"]
    # sd of 0.6, 0.7, 0.8 is 0.1, of 0.80, 0.84, 0.88 it is 0.04; the trials' averages are 0.70, 0.77, 0.84
    assert mean_of(table, "paint", "VL2V-ADiP") == pytest.approx((0.7, 0.1 / math.sqrt(3)))
    assert mean_of(table, "photo", "VL2V-ADiP") == pytest.approx((0.84, 0.04 / math.sqrt(3)))
    assert mean_of(table, "average", "VL2V-ADiP") == pytest.approx((0.77, 0.07 / math.sqrt(3)))
    assert mean_of(table, "worst", "VL2V-ADiP") == mean_of(table, "paint", "VL2V-ADiP")
    assert mean_of(table, "average", "ERM") == pytest.approx((0.7, 0.0))
    assert mean_of(table, "ID", "ERM") == pytest.approx((0.8, 0.0))  # 0.9 with target paint, 0.7 with photo
    assert mean_of(table, "source val", "ERM") == pytest.approx((0.75, 0.0))
    assert mean_of(table, "macro-F1", "VL2V-ADiP") == pytest.approx((0.67, 0.07 / math.sqrt(3)))
    assert mean_of(table, "ECE", "ERM") == pytest.approx((0.12, 0.0))
    assert bold(table) == {
        "paint": ["VL2V-ADiP"],
        "photo": ["ERM"],
        "average": ["VL2V-ADiP"],
        "worst": ["VL2V-ADiP"],
        "ID": ["ERM", "VL2V-ADiP"],
        "source val": ["ERM", "VL2V-ADiP"],
        "macro-F1": ["VL2V-ADiP"],
        "ECE": ["VL2V-ADiP"],  # the lower one
    }


def test_what_was_measured_is_said_below(study: Path) -> None:
    notes = " ".join(tables([study])[0].notes)
    assert "target domain; measured on split 'in' (80 images)" in notes
    assert "of ink, paint, photo); measured on split 'out' (20 images)" in notes
    assert "over 3 trials" in notes
    assert "selected on: source_val" in notes
    assert "do not compare" not in notes


def test_rows_measured_on_different_images_are_told(study: Path) -> None:
    write_run(study / "kd", method="kd", split="all")
    notes = " ".join(tables([study])[0].notes)
    assert "split 'all' (80 images) and split 'in' (80 images): rows measured on different images" in notes


def test_a_missing_target_is_never_averaged_over_in_silence(study: Path) -> None:
    for trial in range(2):
        write_run(study / "kd" / str(trial), method="kd", target="photo", trial=trial, ood=0.99, ece=0.001)
    [table] = tables([study])
    assert column(table, "paint")["KD"] is None
    average, worst = column(table, "average")["KD"], column(table, "worst")["KD"]
    assert average is not None and worst is not None
    assert (average.mean, average.mark, worst.mark) == (0.99, "1/2 targets", "1/2 targets")
    assert bold(table)["average"] == ["VL2V-ADiP"] and bold(table)["ECE"] == ["VL2V-ADiP"]
    assert bold(table)["photo"] == ["KD"]  # of that one it has all
    text = printed([table])
    assert "99.0 ± 0.0 [1/2 targets]" in text and "never set in bold" in text
    assert re.search(r"KD +│ +- │", text)


def test_an_unfinished_trial_stays_out_of_the_average(study: Path) -> None:
    write_run(study / "late", target="photo", trial=3, ood=1.0)
    [table] = tables([study])
    average = column(table, "average")["VL2V-ADiP"]
    assert average is not None
    assert (average.mean, average.trials, average.mark) == (pytest.approx(0.77), 3, "3/4 trials")
    assert "3-4" in printed([table])  # trials: three of paint, four of photo


def test_no_trial_with_all_targets_has_no_average(tmp_path: Path) -> None:
    write_run(tmp_path / "a", target="paint", trial=0)
    write_run(tmp_path / "b", target="photo", trial=1)
    [table] = tables([tmp_path])
    assert column(table, "average") == {"VL2V-ADiP": None}
    assert column(table, "paint")["VL2V-ADiP"] is not None


def test_one_target_and_one_trial_have_neither_average_nor_error(tmp_path: Path) -> None:
    [table] = tables([write_run(tmp_path / "run", ood=0.5)])
    assert table.columns == ("photo", "ID", "source val", "macro-F1", "ECE")
    assert mean_of(table, "photo", "VL2V-ADiP") == (0.5, None)
    assert "no standard error" in " ".join(table.notes) and "±" not in printed([table])
    assert table.best == frozenset()  # nothing to be better than


def test_swept_settings_are_rows_of_their_own(tmp_path: Path) -> None:
    for weight in (1.0, 0.0, 0.25):
        write_run(tmp_path / str(weight), ood=weight, settings={"distill.image_weight": weight})
    write_run(tmp_path / "erm", method="erm", settings={"distill.learning_rate": 1e-3, "align.steps": 7})
    [table] = tables([tmp_path])
    assert [row.label for row in table.rows] == [
        "ERM",
        "VL2V-ADiP, distill.image_weight=0",
        "VL2V-ADiP, distill.image_weight=0.25",
        "VL2V-ADiP, distill.image_weight=1",
    ]
    notes = " ".join(table.notes)
    # ERM has no Align: no difference there, but it trains faster.
    assert "differ in distill.learning_rate: 0.001 (ERM); 5e-05 (VL2V-ADiP)" in notes
    assert "image_weight" not in notes and "align" not in notes


def test_recipes_with_a_label_are_rows_of_that_name(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", ood=0.5)
    for weight in (0.5, 1.0):
        more = {"label": "ADiP, more images", "distill.steps": 7, "distill.image_weight": weight}
        write_run(tmp_path / str(weight), ood=weight, settings=more)
    [table] = tables([tmp_path])
    assert {row.label: row.results[0].ood.accuracy for row in table.rows} == {
        "VL2V-ADiP": 0.5,
        "ADiP, more images, distill.image_weight=0.5": 0.5,
        "ADiP, more images, distill.image_weight=1": 1.0,
    }
    assert "differ in distill.steps: 5000 (VL2V-ADiP); 7 (ADiP, more images)" in " ".join(table.notes)


def test_oracles_are_marked_and_never_bold(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ood=0.5)
    write_run(tmp_path / "b", method="kd", ood=0.6)
    write_run(tmp_path / "o", method="erm", ood=0.9, oracle=True)
    [table] = tables([tmp_path])
    assert [row.label for row in table.rows] == ["ERM (oracle)", "KD", "VL2V-ADiP"]
    assert bold(table)["photo"] == ["KD"]
    assert "source_val (KD, VL2V-ADiP)" in " ".join(table.notes)
    assert "oracle (target) (ERM (oracle))" in " ".join(table.notes)


@pytest.mark.parametrize(
    "other",
    [
        {"data_root": "pictures/vlcs"},
        {"teacher": "ViT-L-14"},
        {"settings": {"data.split.val": 0.3}},
        {"record": {"classes": ["cat", "dog"]}},
        {"record": {"teacher": {"identity": "ViT-B-16@retrained"}}},
    ],
    ids=["data", "teacher", "split", "classes", "teacher's weights"],
)
def test_what_does_not_compare_gets_tables_of_its_own(tmp_path: Path, other: dict[str, object]) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", method="erm", **other)  # type: ignore[arg-type]
    made = tables([tmp_path])
    assert [len(table.rows) for table in made] == [1, 1]
    assert len({table.title for table in made}) == 2
    assert "2 tables" in printed(made)


def test_the_same_data_elsewhere_is_the_same_data(tmp_path: Path) -> None:
    write_run(tmp_path / "a", data_root="here/pacs")
    write_run(tmp_path / "b", data_root="there/pacs", method="erm")
    assert len(tables([tmp_path])) == 1


def test_a_teacher_fed_the_students_tensor_is_the_same_teacher(tmp_path: Path) -> None:
    for name, suffix in (("own", ""), ("faithful", "+faithful(0.5,0.5;224)")):
        identity = {"teacher": {"identity": f"ViT-B-16@1{suffix}"}}
        write_run(tmp_path / name, settings={"normalization": name}, record=identity)
    [table] = tables([tmp_path])
    assert [row.label for row in table.rows] == [
        f"VL2V-ADiP, normalization={name}" for name in ("faithful", "own")
    ]


def test_two_runs_of_one_place_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    with pytest.raises(RunError, match=r"a and .*b: two runs of VL2V-ADiP on target 'photo' with seed 0"):
        tables([tmp_path])
    assert len(tables([tmp_path / "a", tmp_path / "a" / ".." / "a"])) == 1  # the same run, named twice


def test_runs_are_found_at_any_depth_but_not_unfinished_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "y" / "z" / "run")
    write_run(tmp_path / "x" / "other.partial", method="kd")
    write_run(tmp_path / "x" / "other.replaced" / "deep", method="rise")
    assert [row.method for row in tables([tmp_path])[0].rows] == ["adip"]


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        tables([tmp_path / "nothing"])
    with pytest.raises(RunError, match=r"holds no run\.json"):
        tables([tmp_path])
    write_run(tmp_path / "old", record={"format": 1})
    with pytest.raises(RunError, match=r"expected format 2, got 1: .* distill the run again"):
        tables([tmp_path])


def test_files_say_the_same(study: Path, tmp_path: Path) -> None:
    write_run(study / "kd", method="kd", target="photo", ood=0.125)
    made = tables([study])
    out = tmp_path / "out" / "deep"
    files = write_tables(made, out)
    names = ["runs.jsonl", "table.csv", "table.json", "table.md", "table.tex"]
    assert sorted(path.name for path in files) == names

    markdown = (out / "table.md").read_text()
    assert "| VL2V-ADiP | **70.0 ± 5.8** | 84.0 ± 2.3 | **77.0 ± 4.0** |" in markdown
    assert "| KD | - | 12.5 | 12.5 [1/2 targets] |" in markdown
    assert all(f"- {markdown_text(note)}" in markdown for note in made[0].notes)

    with (out / "table.csv").open() as file:
        rows = {(row["method"], row["column"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3 * 8
    assert rows["VL2V-ADiP", "average"]["mean_percent"] == "77.0000"
    assert rows["VL2V-ADiP", "average"]["se_percent"] == f"{7 / math.sqrt(3):.4f}"
    assert rows["KD", "paint"]["mean_percent"] == "" and rows["KD", "average"]["missing"] == "1/2 targets"

    [tree] = json.loads((out / "table.json").read_text())
    adip = tree["rows"][-1]
    assert adip["ood"]["photo"]["mean"] == pytest.approx(0.84) and adip["seeds"] == [0, 1, 2]
    assert tree["rows"][1]["ood"]["paint"] is None
    assert set(adip["summary"]) == {"average", "worst", "ID", "source val", "macro-F1", "ECE"}


def test_records_make_the_same_tables_again_and_go_with_new_runs(study: Path, tmp_path: Path) -> None:
    swept = {"distill.swad.ratio": 0.4}
    segments = [{"start_step": 0, "end_step": 2, "loss": 0.5, "accuracy": 0.25}]
    for run, averaging in (("early", SWAD | {"segments": segments}), ("late", {"kind": "last"})):
        write_run(
            study / "kd" / run,
            method="kd",
            data_root="pictures/vlcs" if run == "late" else "pictures/pacs",
            settings=swept,
            record=stages(distill=averaging),
        )
    first = tmp_path / "first"
    made = tables([study])
    write_tables(made, first)
    lines = (first / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 12 + 2
    assert not any('"segments": [' in line for line in lines)  # the recipe has a field of that name
    kept = next(record for record in map(json.loads, lines) if record["method"] == "kd")
    swad = {key: value for key, value in SWAD.items() if key != "segments"}
    assert kept["stages"]["distill"] == stages(distill=swad)["stages"]["distill"]
    assert kept["recipe"]["distill"]["swad"]["ratio"] == 0.4

    again = tables([first / "runs.jsonl", first / ".." / "first" / "runs.jsonl"])  # the same, named twice
    assert len(again) == len(made) == 2
    write_tables(again, tmp_path / "again")
    for file in ("runs.jsonl", "table.csv", "table.json", "table.md", "table.tex"):
        assert (tmp_path / "again" / file).read_text() == (first / file).read_text()

    write_run(tmp_path / "new", method="rise", target="photo")
    [pacs, _] = tables([first / "runs.jsonl", tmp_path / "new"])
    assert [row.method for row in pacs.rows] == ["erm", "kd", "rise", "adip"]
    with pytest.raises(RunError, match=r"trial-0 and .*runs\.jsonl:\d+: two runs of"):
        tables([study, first / "runs.jsonl"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"runs\.jsonl:1: expected a run's record with its recipe"),
        ("torn", r"runs\.jsonl:1: expected a run's record"),
        ('{"format": 2, "metrics": {}}', r"runs\.jsonl:1: expected a run's record .* name the folder"),
        ('{"format": 3, "recipe": {}}', r"runs\.jsonl:1: expected format 2, got 3"),
    ],
)
def test_a_file_of_something_else_is_an_error(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "runs.jsonl").write_text(text)
    with pytest.raises(RunError, match=expected):
        tables([tmp_path / "runs.jsonl"])


def test_a_bar_in_a_name_ends_no_markdown_cell(tmp_path: Path) -> None:
    write_tables(
        tables([write_run(tmp_path / "run", target="ink|gold", domains=("ink|gold", "photo"))]), tmp_path
    )
    head = (tmp_path / "table.md").read_text().splitlines()[2]
    assert head.startswith(r"| method | ink\|gold | ID |")


def test_latex_is_escaped_and_its_columns_add_up(tmp_path: Path) -> None:
    domains = ("50%_a&b", "photo")
    for method, target in zip(("adip", "erm"), domains, strict=True):
        settings = {"distill.steps": 7}
        write_run(tmp_path / method, method=method, target=target, domains=domains, settings=settings)
    write_run(tmp_path / "other", domains=domains, settings={"distill.steps": 8})
    write_tables(tables([tmp_path]), tmp_path)
    lines = (tmp_path / "table.tex").read_text().splitlines()
    body = [line for line in lines if line.endswith(r"\\")]
    assert r"50\%\_a\&b" in body[0] and r"distill.steps=7" in "".join(body)
    [head] = [line for line in lines if line.startswith(r"\begin{tabular}")]
    columns = len(re.findall("[lr]", head.removeprefix(r"\begin{tabular}")))
    assert all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in body)
    assert not any(re.search(r"(?<!\\)[_%#]", line) for line in body)


HOSTILE = "=cmd|'/c x'!A1 <script>alert(1)</script> $\\frac{a}$ \\input{x} [x](y) `b`\n% c"


def test_hostile_domain_names_stay_text_in_every_file_and_figure(tmp_path: Path) -> None:
    label = f"[9cm] {HOSTILE}"[:59]
    runs = []
    for method, trials in (("adip", ADIP), ("erm", ERM)):
        own = {"settings": {"label": label}} if method == "erm" else {}
        for target, ood in zip((HOSTILE, "photo"), trials[0], strict=True):
            measured = {"domains": (HOSTILE, "photo"), "classes": (HOSTILE, "b"), "ood": ood}
            run = tmp_path / "runs" / method / target[:1]
            runs.append(write_run(run, method=method, target=target, **measured, **own))
    out = tmp_path / "out"
    made = tables(runs)
    write_tables(made, out)
    texts = {path.suffix: path.read_text(encoding="utf-8") for path in out.iterdir()}
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(texts[".md"])
    assert "<script" not in html and "<a " not in html and html.count("<tr>") == 3
    assert len(re.findall("<th[ >]", html)) == len(made[0].columns) + 2
    rows = list(csv.DictReader(io.StringIO(texts[".csv"])))
    assert {row["column"] for row in rows} >= {f"'{shown(HOSTILE)}", "photo"}
    assert all(cell[:1] not in ("=", "@") for row in rows for cell in row.values())
    assert any(float(row["mean_percent"]) == 80.0 for row in rows)
    body = [line for line in texts[".tex"].splitlines() if not line.startswith("% ")]
    assert not any(r"\input" in line or r"\frac" in line for line in body)
    assert all(line.startswith(("\\", "method", "{}[9cm]", "AdIP", "ERM", "VL2V")) for line in body if line)
    assert "<script>" in printed(made) and "\n%" not in printed(made)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of a font's glyphs, and of a name too long for the room
        drawn = draw_figures(runs, tmp_path / "figures")
    assert {path.name for path in drawn.files} >= {"methods.png", "per_class.png"}


def test_command(study: Path) -> None:
    result = CliRunner().invoke(cli, ["table", str(study), "--out", str(study / "out")])
    assert result.exit_code == 0, result.output
    assert "VL2V-ADiP" in result.output and "table.tex" in result.output
    printed = CliRunner().invoke(cli, ["table", str(study), "--json"]).output
    assert json.loads(printed) == json.loads((study / "out/table.json").read_text())
    failed = CliRunner().invoke(cli, ["table", str(study / "nowhere")])
    assert failed.exit_code == 1 and "no such run directory" in failed.output
