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
