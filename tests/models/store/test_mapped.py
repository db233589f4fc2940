"""Embeddings of many images are not in memory: rows are read from a mapped file as they are used."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from vl2v_deploy.models.store import mapped
from vl2v_deploy.models.store.held import Held
from vl2v_deploy.models.store.shards import write_shard

DIM, SHARDS, ROWS = 512, 40, 1024  # 84 MB


def anonymous_bytes() -> int:
    """Memory of this process that no file stands for, which the system cannot take back."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"^RssAnon:\s+(\d+) kB$", status, flags=re.MULTILINE)[0])


def refuse(damage: Exception) -> None:
    raise damage


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_of_many_embeddings_are_mapped_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path))
    torch.manual_seed(0)
    for shard in range(SHARDS):
        keys = b"".join(key(shard * ROWS + row) for row in range(ROWS))
        write_shard(tmp_path / f"{shard}.safetensors", keys, torch.randn(ROWS, DIM))
    held = Held(tmp_path, DIM, refuse)
    wanted = [key(7), *(key(number) for number in reversed(range(SHARDS * ROWS))), key(7)]
    size = 4 * DIM * len(wanted)
    assert size > mapped.MAPPED_FROM_BYTES
    before = anonymous_bytes()
    rows = held.rows(wanted)
    grown = anonymous_bytes() - before
    assert rows is not None and grown < size / 3
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"] * SHARDS  # the file has no name

    monkeypatch.setattr(mapped, "MAPPED_FROM_BYTES", 2 * size)
    before = anonymous_bytes()
    in_memory = held.rows(wanted)
    assert anonymous_bytes() - before > size / 2  # so what is measured above is there to be seen
    assert in_memory is not None and torch.equal(rows, in_memory)
    assert torch.equal(rows[0], rows[-1]) and torch.equal(rows[0], rows[SHARDS * ROWS - 7])


def test_where_the_disk_refuses_rows_are_in_memory_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "not-there"))
    monkeypatch.setattr(mapped, "MAPPED_FROM_BYTES", 1)
    assert torch.equal(mapped.zero_rows(3, 2), torch.zeros(3, 2))
    assert "not-there" in capfd.readouterr().err
