"""Shards: immutable files of teacher embeddings, each whole or not there at all.

<unique>.safetensors    embedding (n, D) float32, sha256 (n, 32) uint8: the key of each row

A shard holds the CRC-32 of its keys and of its embeddings, and what is read is checked against them. A
damaged shard is set aside as <unique>.safetensors.damaged, so that the next run, if it is started, buys it
anew. Shards of earlier versions have no checksum: their embeddings must be finite and of unit length.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vl2v_deploy.errors import ModelError

KEY_BYTES = 32
UNFINISHED = ".unfinished"
DAMAGED = ".damaged"
KEYS_CRC, ROWS_CRC = "keys_crc32", "rows_crc32"


class _Damaged(Exception):
    """What is wrong with a shard."""


def write_shard(shard: Path, keys: bytes, rows: Tensor) -> None:
    """A new shard, on the disk when this returns; one that is there already is replaced.

    keys: n of KEY_BYTES bytes each
    rows: (n, D)
    """
    stacked = np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES).copy()
    rows = rows.float().contiguous()
    checksums = {KEYS_CRC: _crc(stacked), ROWS_CRC: _crc(rows.numpy())}
    content = save({"embedding": rows, "sha256": torch.from_numpy(stacked)}, metadata=checksums)
    unfinished = shard.with_suffix(UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(shard)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(shard.parent)


def read_keys(shard: Path, dim: int | None = None) -> bytes:
    """The keys of a shard's n rows in one string; its embeddings are not read.

    dim: D that its embeddings must have

    Raises ModelError for a damaged shard, which is set aside, and for one of another width.
    """
    with _open_shard(shard) as content:
        keys = content.get_tensor("sha256").numpy()
        rows, found = content.get_slice("embedding").get_shape()
        if keys.shape != (rows, KEY_BYTES):
            raise _Damaged(f"{rows} embeddings, but keys of shape {keys.shape}")
        if _checksum(content, KEYS_CRC) not in (None, _crc(keys)):
            raise _Damaged("its keys do not have the checksum that was written with them")
    if dim is not None and found != dim:
        raise ModelError(
            f"{shard}: embeddings of {found} numbers, where this teacher answers {dim}; move the shard away"
        )
    return bytes(keys.tobytes())


def split_keys(joined: bytes) -> Iterator[bytes]:
    """Each key of a string that `read_keys` gave."""
    return (joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES))


def read_rows(shard: Path, rows: Sequence[int]) -> Tensor:
    """Some rows of a shard; float32 (len(rows), D).

    Raises ModelError for a damaged shard, which is set aside.
    """
    with _open_shard(shard) as content:
        embedding: Tensor = content.get_tensor("embedding")  # (n, D)
        checksum = _checksum(content, ROWS_CRC)
        if checksum is None:
            wanted = embedding[list(rows)]
            if not bool(((wanted.norm(dim=1) - 1).abs() < 0.01).all()):  # not for NaN either
                raise _Damaged("an embedding that is not finite or not of unit length")
        elif checksum != _crc(embedding.numpy()):
            raise _Damaged("its embeddings do not have the checksum that was written with them")
        return embedding[list(rows)]


def embedding_shape(shard: Path) -> tuple[int, int]:
    """(n, D) of a shard; ModelError for a damaged one, which is set aside."""
    with _open_shard(shard) as content:
        rows, dim = content.get_slice("embedding").get_shape()
    return int(rows), int(dim)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a loss of power, where the system can."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _open_shard(shard: Path) -> Iterator[Any]:
    try:
        with safe_open(shard, framework="pt") as content:
            yield content
    except (SafetensorError, OSError, KeyError, ValueError, _Damaged) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(_set_aside(shard, error)) from error


def _set_aside(shard: Path, why: Exception) -> str:
    problem = f"{shard}: damaged embedding shard ({why})"
    if isinstance(why, OSError) and not isinstance(why, _Damaged):
        return f"{problem}; if the disk can be read again, run again"
    aside = shard.with_name(shard.name + DAMAGED)
    with suppress(OSError):
        shard.replace(aside)
        return f"{problem}; it was set aside as {aside.name}: run again to buy its embeddings anew"
    return f"{problem}; delete it and run again to buy its embeddings anew"


def _checksum(content: Any, name: str) -> str | None:
    return (content.metadata() or {}).get(name)


def _crc(array: np.ndarray[Any, Any]) -> str:
    return f"{zlib.crc32(array.tobytes()):08x}"
