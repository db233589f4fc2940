"""Runs that were killed go on where they were; parts of a run are together the run."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import chain
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.helpers.bulk import make_place, predict, rows, started_predict, wait_until
from tests.helpers.made_once import made_once
from tests.helpers.running import wait_for_end
from vl2v_deploy.bulk.parts import Part, items_of_part

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "bulk", make_place)


def done(out: Path) -> int:
    """How many rows an unfinished run has kept."""
    try:
        lines = out.with_name(f"{out.name}.partial").joinpath("_done.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["images"] if lines else 0
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def workers_of(process: int) -> list[int]:
    """The worker processes below one; multiprocessing's tracker of resources is none."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@LINUX
@pytest.mark.parametrize(
    ("ending", "workers", "victim"),
    [("jsonl", 1, "all"), ("csv", 2, "all"), ("parquet", 2, "all"), ("jsonl", 2, "worker")],
)
def test_bulk_goes_on_after_a_kill(
    place: Path, tmp_path: Path, ending: str, workers: int, victim: str
) -> None:
    names = (place / "many.txt").read_text()
    expected, out = tmp_path / f"expected.{ending}", tmp_path / f"out.{ending}"
    assert predict(place, place / "many.txt", "--out", expected, "--workers", 1).exit_code == 0
    with started_predict(place, "--out", out, "--workers", workers) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write("".join(names.splitlines(keepends=True)[:2000]))
        process.stdin.flush()  # and then it waits for more
        wait_until(lambda: done(out) > 0, process)
        children = workers_of(process.pid)
        assert len(children) == (workers if workers > 1 else 0)
        if victim == "all":
            process.kill()
        else:
            os.kill(children[1], signal.SIGSTOP)  # as one that waits for ever for its rows to be taken
            os.kill(children[0], signal.SIGKILL)
            process.stdin.close()
            assert "a worker process was killed or crashed" in process.stderr.read()
        assert process.wait(60) == (-signal.SIGKILL if victim == "all" else 1)
        for child in children:
            wait_for_end(child, 20)
    kept = done(out)
    assert 0 < kept < 2500 and not out.exists()
    # a killed process may have written what it has not said yet
    with out.with_name(f"{out.name}.partial").joinpath("_rows").open("ab") as raw:
        raw.write(b"half a row")
    with out.with_name(f"{out.name}.partial").joinpath("_done.jsonl").open("ab") as said:
        said.write(b'{"images": 99')

    refused = predict(place, place / "many.txt", "--out", out)
    assert refused.exit_code == 1 and "is unfinished; go on with --resume" in refused.stderr
    changed = predict(place, place / "many.txt", "--out", out, "--resume", "--top", 1)
    assert changed.exit_code == 1 and "belongs to another run: top was 2" in changed.stderr
    other = predict(place, "-", "--out", out, "--resume", stdin=f"other.png\n{names}")
    assert other.exit_code == 1 and "the inputs are not those" in other.stderr
    fewer = predict(place, place / "data/photo/red/00.png", "--out", out, "--resume")
    assert fewer.exit_code == 1 and "the inputs are not those" in fewer.stderr
    assert done(out) == kept

    result = predict(place, "-", "--out", out, "--resume", "--workers", 1, stdin=names)
    assert result.exit_code == 0 and "2,500 images, 21 failed" in result.stderr
    if ending == "parquet":
        found, first = map(pyarrow.parquet.read_table, (out, expected))
        assert found.equals(first)
    assert out.read_bytes() == expected.read_bytes()
    assert not out.with_name(f"{out.name}.partial").exists()


@LINUX
@pytest.mark.parametrize("workers", [1, 2])
def test_bulk_ends_in_order_when_it_is_told_to(place: Path, tmp_path: Path, workers: int) -> None:
    out, names = tmp_path / "out.jsonl", (place / "many.txt").read_text()
    with started_predict(place, "--out", out, "--workers", workers) as process:
        assert process.stdin is not None
        process.stdin.write("".join(names.splitlines(keepends=True)[:2000]))
        process.stdin.flush()
        wait_until(lambda: done(out) > 0, process)
        children = workers_of(process.pid)
        for number in (process.pid, *children):  # as a terminal does: to all of the group
            os.kill(number, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    again = f"predict {place}/bundle - --out {out} --workers {workers} --resume"
    assert "every row so far is kept" in said and said.strip().endswith(again)
    assert "Traceback" not in said
    for child in children:
        wait_for_end(child)
    assert predict(place, "-", "--out", out, "--resume", stdin=names).exit_code == 0
    assert [row["image"] for row in rows(out)] == names.split()


def test_bulk_nothing_is_left_when_it_fails_before_the_first_row(place: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\na.png\n,\n")
    result = predict(place, tmp_path / "list.csv", "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 1 and "line 3: image: expected the path" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]


@pytest.mark.parametrize(("count", "parts"), [(0, 3), (31, 2), (33, 2), (1000, 7), (100, 100)])
def test_parts_hold_every_item_once(count: int, parts: int) -> None:
    taken = [list(items_of_part(range(count), Part(number, parts))) for number in range(1, parts + 1)]
    assert sorted(chain(*taken)) == list(range(count))
    assert max(map(len, taken)) - min(map(len, taken)) <= 32
    assert all(part == sorted(part) for part in taken)


def test_parts_are_together_one_run(place: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    assert predict(place, place / "many.txt", "--out", whole, "--workers", 1).exit_code == 0
    lines = []
    for number in (1, 2, 3):
        out = tmp_path / f"{number}.jsonl"
        result = predict(place, place / "many.txt", "--out", out, "--part", f"{number}/3", "--workers", 1)
        assert result.exit_code == 0, result.output
        lines.append(out.read_bytes().splitlines())
    assert sorted(chain(*lines)) == sorted(whole.read_bytes().splitlines())
    assert lines[1] == list(items_of_part(whole.read_bytes().splitlines(), Part(2, 3)))
    other = predict(
        place, place / "many.txt", "--out", tmp_path / "1.parquet", "--part", "1/3", "--workers", 1
    )
    assert other.exit_code == 0
    resumed = predict(place, place / "many.txt", "--out", tmp_path / "1.parquet", "--part", "2/3", "--resume")
    assert resumed.exit_code == 1 and "part was 1/3" in resumed.stderr
    few = predict(place, place / "data/photo/red/00.png", "--out", tmp_path / "few.csv", "--part", "2/3")
    assert few.exit_code == 0 and (tmp_path / "few.csv").read_text().startswith("image,label,")
