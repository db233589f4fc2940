"""Shards: immutable files of teacher embeddings, each whole or not there at all.

<unique>.safetensors    embedding (n, D) float32, sha256 (n, 32) uint8: the key of each row

A shard holds the CRC-32 of its keys and of its embeddings, and what is read is checked against them. A
damaged shard is set aside (see models.store.damage). Shards of earlier versions have no checksum: their
embeddings must be of unit length. Those of all must be finite.
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

from vl2v_deploy.errors import ModelError, one_line
from vl2v_deploy.models.store.damage import Damage, set_aside
from vl2v_deploy.models.store.disk import on_disk

KEY_BYTES = 32
UNFINISHED = ".unfinished"
KEYS_CRC, ROWS_CRC = "keys_crc32", "rows_crc32"


class _Damaged(Exception):
    """What is wrong with a shard."""


def write_shard(shard: Path, keys: bytes, rows: Tensor) -> None:
    """A new shard, on the disk when this returns; one that is there already is replaced.

    keys: n of KEY_BYTES bytes each
    rows: (n, D)

    Raises DiskRefusal where the disk is full, read-only or fails.
    """
    stacked = np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES).copy()
    rows = rows.float().contiguous()
    checksums = {KEYS_CRC: _crc(stacked), ROWS_CRC: _crc(rows.numpy())}
    content = save({"embedding": rows, "sha256": torch.from_numpy(stacked)}, metadata=checksums)
    unfinished = shard.with_suffix(UNFINISHED)
    try:
        with on_disk(shard):
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(shard)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    with on_disk(shard):
        sync_folder(shard.parent)


def read_keys(shard: Path, dim: int | None = None) -> bytes:
    """The keys of a shard's n rows in one string; its embeddings are not read.

    dim: D that its embeddings must have

    Raises Damage for a damaged shard, which is set aside; ModelError for one of another width, or that cannot
    be read.
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

    Raises Damage for a damaged shard, which is set aside; ModelError for one that cannot be read.
    """
    with _open_shard(shard) as content:
        embedding: Tensor = content.get_tensor("embedding")  # (n, D)
        checksum, wanted = _checksum(content, ROWS_CRC), embedding[list(rows)]
        if checksum not in (None, _crc(embedding.numpy())):
            raise _Damaged("its embeddings do not have the checksum that was written with them")
        if not bool(wanted.isfinite().all()):
            raise _Damaged("an embedding that is not finite")
        if checksum is None and not bool(((wanted.norm(dim=1) - 1).abs() < 0.01).all()):
            raise _Damaged("an embedding that is not of unit length")
        return wanted


def embedding_shape(shard: Path) -> tuple[int, int]:
    """(n, D) of a shard; Damage for a damaged one, which is set aside."""
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
    except OSError as error:
        raise ModelError(
            f"{shard}: cannot be read ({one_line(error)}); mend the disk, or permit reading, and run again"
        ) from error
    except (SafetensorError, KeyError, ValueError, _Damaged) as error:
        if isinstance(error, ModelError):
            raise
        raise Damage(f"{shard}: damaged embedding shard ({error}); {set_aside(shard)}") from error


def _checksum(content: Any, name: str) -> str | None:
    return (content.metadata() or {}).get(name)


def _crc(array: np.ndarray[Any, Any]) -> str:
    return f"{zlib.crc32(array.tobytes()):08x}"
