"""data.split.duplicates parts no runs where the data hold no copies, and does where they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.run_folders import record_tree, write_run
from vl2v_deploy.distillation.study.table import Table, tables


def run(folder: Path, method: str, duplicates: str, copies: int | None) -> None:
    """A run whose record says how many images have a copy; None = it is older than that."""
    found: dict[str, Any] = {"images": copies, "two_labels": [], "held_out": [], "allowed": False}
    known = {} if copies is None else {"copies": found | {"near": 0, "near_pairs": []}}
    data = record_tree()["data"] | known
    settings = {"data.split.duplicates": duplicates}
    write_run(folder / method, method=method, settings=settings, record={"data": data})


def notes(table: Table) -> str:
    return "\n".join(table.notes)


@pytest.mark.parametrize("copies", [0, None], ids=["known", "older"])
def test_without_copies_the_setting_parts_nothing(tmp_path: Path, copies: int | None) -> None:
    run(tmp_path, "erm", "allow", copies)
    run(tmp_path, "adip", "one_side", 0)
    run(tmp_path, "kd", "one_side", 0)
    [table] = tables([tmp_path])
    assert [row.method for row in table.rows] == ["erm", "kd", "adip"]
    assert not any(row.setting for row in table.rows)
    assert "duplicates" not in notes(table)


@pytest.mark.parametrize("of_older", [4, None])
def test_with_copies_it_does(tmp_path: Path, of_older: int | None) -> None:
    run(tmp_path, "erm", "allow", of_older)
    run(tmp_path, "adip", "one_side", 4)
    methods = [[row.method for row in table.rows] for table in tables([tmp_path])]
    assert sorted(methods) == [["adip"], ["erm"]]


def test_older_runs_alone_stay_together(tmp_path: Path) -> None:
    run(tmp_path, "erm", "allow", None)
    run(tmp_path, "adip", "allow", None)
    assert len(tables([tmp_path])) == 1
