"""Answers that are on disk stay there; what is damaged is named and set aside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.asked import LOG, log_asked, read_asked
from vl2v_deploy.models.store.journal import Journal, read_journal, recover
from vl2v_deploy.models.store.shards import KEY_BYTES, read_keys, read_rows, write_shard

DIM = 8


def answer(first: int, count: int) -> tuple[list[bytes], Tensor]:
    keys = [number.to_bytes(KEY_BYTES, "big") for number in range(first, first + count)]
    return keys, normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(first)))


def written(folder: Path, answers: int = 3) -> tuple[Path, list[tuple[list[bytes], Tensor]]]:
    """A journal whose writer is gone, with answers of 2 embeddings."""
    done = [answer(10 * number, 2) for number in range(answers)]
    child = os.fork()
    if child == 0:
        journal = Journal(folder, DIM, 100)
        for keys, rows in done:
            journal.append(keys, rows)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    [path] = folder.glob("*.journal")
    return path, done


def held(folder: Path) -> dict[bytes, Tensor]:
    found: dict[bytes, Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        keys = read_keys(shard, DIM)
        split = [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
        found |= dict(zip(split, read_rows(shard, range(len(split))), strict=True))
    return found


def test_ledger_journal_of_a_dead_writer_becomes_a_shard(tmp_path: Path) -> None:
    path, answers = written(tmp_path)
    size = path.stat().st_size
    assert size >= 100 * 4 * DIM  # room for all that was going to be asked
    recover(tmp_path)
    found = held(tmp_path)
    for keys, rows in answers:
        assert torch.equal(torch.stack([found[key] for key in keys]), rows)
    assert {each.suffix for each in tmp_path.iterdir()} == {".safetensors", ""}  # and the lock
    recover(tmp_path)
    assert len(held(tmp_path)) == 6


def test_ledger_journal_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, DIM, 4)
    journal.append(*answer(0, 2))
    recover(tmp_path)
    assert journal.path.exists() and not held(tmp_path)
    journal.append(*answer(2, 2))
    journal.fold()
    assert len(held(tmp_path)) == 4 and not journal.path.exists()


def test_ledger_journal_torn_anywhere_keeps_every_whole_answer(tmp_path: Path) -> None:
    path, answers = written(tmp_path)
    content = path.read_bytes().rstrip(b"\0")
    record = (len(content) - 12) // 3
    for cut in range(12, len(content), 7):
        for rest in (b"", bytes(500)):
            path.write_bytes(content[:cut] + rest)
            records, damaged = read_journal(path)
            assert len(records) == (cut - 12) // record or content[cut:].strip(b"\0") == b""
            assert not damaged
    assert all(torch.equal(found.rows, rows) for found, (_, rows) in zip(records, answers, strict=False))


def test_ledger_journal_damaged_record_is_set_aside_and_the_others_are_kept(tmp_path: Path) -> None:
    path, answers = written(tmp_path)
    content = bytearray(path.read_bytes())
    record = (len(bytes(content).rstrip(b"\0")) - 12) // 3
    content[12 + record + record // 2] ^= 1  # in the second
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"set aside as .*\.damaged") as caught:
        recover(tmp_path)
    assert "\n" not in str(caught.value)
    [aside] = tmp_path.glob("*.damaged")
    assert record - 3 <= aside.stat().st_size <= record + 3
    assert held(tmp_path).keys() == {*answers[0][0], *answers[2][0]}
    recover(tmp_path)  # said once; then one may go on


def test_ledger_journal_without_room_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    """On a file system that is full: a tmpfs of 64 KB, where the system lets a user mount one."""
    script = (
        "import sys; from pathlib import Path; from vl2v_deploy.errors import ModelError\n"
        "from vl2v_deploy.models.store.journal import Journal\n"
        "try: Journal(Path(sys.argv[1]), 512, 1024)\n"
        "except ModelError as error: print(error)\n"
        "print(*[p.suffix for p in Path(sys.argv[1]).iterdir()])"
    )
    mount = f"mount -t tmpfs -o size=64k none {tmp_path} && exec {sys.executable} -c '{script}' {tmp_path}"
    result = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"no tmpfs of one's own here: {result.stderr.strip()[:200]}")
    said, left = result.stdout.splitlines()
    assert "No space left" in said and "no more is asked" in said
    assert ".journal" not in left


def test_ledger_shard_with_a_flipped_bit_is_set_aside(tmp_path: Path) -> None:
    keys, rows = answer(0, 4)
    for where in ("embedding", "sha256"):
        shard = tmp_path / f"{where}.safetensors"
        write_shard(shard, b"".join(keys), rows)
        assert torch.equal(read_rows(shard, [2, 0]), rows[[2, 0]])
        content = bytearray(shard.read_bytes())
        payload = rows.numpy().tobytes() if where == "embedding" else keys[1]
        content[content.index(payload) + 3] ^= 0x40
        shard.write_bytes(content)
        with pytest.raises(ModelError, match=f"{shard.name}: damaged .* set aside"):
            read_keys(shard)
            read_rows(shard, [0])
        assert not shard.exists() and (tmp_path / f"{shard.name}.damaged").exists()


def test_ledger_shard_of_another_width_and_older_shards(tmp_path: Path) -> None:
    keys, rows = answer(0, 4)
    shard = tmp_path / "a.safetensors"
    write_shard(shard, b"".join(keys), rows)
    with pytest.raises(ModelError, match="embeddings of 8 numbers, where this teacher answers 16"):
        read_keys(shard, 16)
    assert shard.exists()
    old = load_file(shard)
    save_file(old, shard)  # as earlier versions did: without checksums
    assert torch.equal(read_rows(shard, [3]), rows[[3]]) and read_keys(shard, DIM) == b"".join(keys)
    for wrong in (float("nan"), 1e38):
        save_file(old | {"embedding": old["embedding"].index_fill(1, torch.tensor([2]), wrong)}, shard)
        with pytest.raises(ModelError, match="damaged"):
            read_rows(shard, [3])


def test_ledger_log_survives_a_torn_line(tmp_path: Path) -> None:
    log_asked(tmp_path, hits=1, misses=2)
    with (tmp_path / LOG).open("a") as log:
        log.write('{"at": "2026-11')
    assert read_asked(tmp_path) == (1, 2)
    log_asked(tmp_path, hits=10, misses=20)
    assert read_asked(tmp_path) == (11, 22)
    assert json.loads((tmp_path / LOG).read_text().splitlines()[-1])["hits"] == 10
