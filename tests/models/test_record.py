"""run.json through its type: an earlier run is read and written back, what is no record is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.helpers import run_folders
from tests.helpers.run_folders import record_tree, stages
from vl2v_deploy.distillation.report import print_runs
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.errors import RunError
from vl2v_deploy.method.reports import SwadReport
from vl2v_deploy.models.record import read_record, record_from_tree, write_record
from vl2v_deploy.models.run_directory import load_run

# A run of the tiny recipe, distilled before the record had a type.
FORMAT_2 = Path(run_folders.__file__).parent / "runs" / "format_2"


def test_an_earlier_run_of_this_format_is_loaded() -> None:
    run = load_run(FORMAT_2)
    assert run.record.format == 2
    assert run.classes == ("circle", "square")
    assert run.record.teacher.queries == 56
    averaging = run.record.stages["align"].averaging
    assert isinstance(averaging, SwadReport)
    assert averaging.segments[0].end_step == 11
    images = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert run.student(images).projected.shape == (2, run.record.embedding_dim)  # type: ignore[union-attr]
    [table] = tables([FORMAT_2])
    assert [row.method for row in table.rows] == [run.record.method]


def test_a_record_is_written_as_it_was_read(tmp_path: Path) -> None:
    write_record(read_record(FORMAT_2), tmp_path)
    assert (tmp_path / "run.json").read_text() == (FORMAT_2 / "run.json").read_text()


def test_an_oracle_is_told_wherever_its_target_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, oracle in (("honest", False), ("oracle", True)):
        (tmp_path / name).mkdir()
        tree = json.loads((FORMAT_2 / "run.json").read_text())
        tree |= {"selection": "oracle (target)"} if oracle else {}
        (tmp_path / name / "run.json").write_text(json.dumps(tree))
        record = read_record(tmp_path / name)
        assert record.target_role == ("target, weights selected on" if oracle else "target, OOD")
        print_runs([tmp_path / name], tmp_path)
        said = capsys.readouterr().out
        assert ("weights were selected" in said) == oracle
    print_runs([tmp_path / "honest", tmp_path / "oracle"], tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if ", ID " in line]
    assert ["OOD" in line for line in lines] == [True, False]
    assert ["oracle: weights selected on it" in line for line in lines] == [False, True]


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.pop(key)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tree: tree.update(format=1), ["expected format 2, got 1", "distill the run again"]),
        (without("format"), ["expected format 2, got None"]),
        (without("accuracy"), ["accuracy", "distill the run again"]),
        (lambda tree: tree["data"].pop("fingerprint"), ["data.fingerprint"]),
        (lambda tree: tree.update(method="forgotten"), ["method", "forgotten"]),
        (lambda tree: tree.update(stages(align={"kind": "new"})), ["stages.align.averaging", "new"]),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], expected: list[str]
) -> None:
    tree = record_tree()
    change(tree)
    (tmp_path / "run.json").write_text(json.dumps(tree))
    with pytest.raises(RunError) as caught:
        read_record(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'run.json'}: ")
    assert all(part in message for part in expected)


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        read_record(tmp_path)


def test_a_record_is_frozen() -> None:
    record = record_from_tree(record_tree(), Path("run.json"))
    with pytest.raises(ValidationError):
        record.seed = 3


def test_a_record_is_read_without_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from vl2v_deploy.models.record import read_record;"
        f"read_record(Path({str(FORMAT_2)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
