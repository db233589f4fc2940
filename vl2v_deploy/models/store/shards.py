"""Shards: immutable files of teacher embeddings, each whole or not there at all.

<unique>.safetensors    embedding (n, D) float32, sha256 (n, 32) uint8: the key of each row
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vl2v_deploy.errors import ModelError

KEY_BYTES = 32
UNFINISHED = ".unfinished"


def write_shard(folder: Path, keys: Sequence[bytes], rows: Tensor) -> Path:
    """A new shard in `folder`, under a name of its own; its path.

    keys: n of KEY_BYTES bytes
    rows: (n, D)
    """
    shard = folder / f"{uuid.uuid4().hex}.safetensors"
    unfinished = shard.with_suffix(UNFINISHED)
    stacked = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES).copy()
    save_file({"embedding": rows.float().contiguous(), "sha256": torch.from_numpy(stacked)}, unfinished)
    unfinished.replace(shard)
    return shard


def read_keys(shard: Path) -> bytes:
    """The keys of a shard's n rows in one string; its embeddings are not read.

    Raises ModelError for a damaged shard.
    """
    with _open_shard(shard) as content:
        keys = content.get_tensor("sha256").numpy()
        rows = content.get_slice("embedding").get_shape()
    if keys.shape != (rows[0], KEY_BYTES):
        raise ModelError(_damaged(shard, f"{rows[0]} embeddings, but keys of shape {keys.shape}"))
    return bytes(keys.tobytes())


def split_keys(joined: bytes) -> Iterator[bytes]:
    """Each key of a string that `read_keys` gave."""
    return (joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES))


def read_rows(shard: Path, rows: Sequence[int]) -> Tensor:
    """Some rows of a shard; float32 (len(rows), D).

    Raises ModelError for a damaged shard.
    """
    with _open_shard(shard) as content:
        embedding: Tensor = content.get_tensor("embedding")  # (n, D)
        return embedding[list(rows)]


def embedding_shape(shard: Path) -> tuple[int, int]:
    """(n, D) of a shard; ModelError for a damaged one."""
    with _open_shard(shard) as content:
        rows, dim = content.get_slice("embedding").get_shape()
    return int(rows), int(dim)


@contextmanager
def _open_shard(shard: Path) -> Iterator[Any]:
    try:
        with safe_open(shard, framework="pt") as content:
            yield content
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(_damaged(shard, error)) from error


def _damaged(shard: Path, why: object) -> str:
    return f"{shard}: damaged embedding shard ({why}); delete it and run again"
