"""Rows of many embeddings: in a file without a name, of which memory holds what is used."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import torch
from torch import Tensor

from vl2v_deploy.data.cache import cache_place, say_not_written

# Below it rows are in memory: a file for each small answer would be for nothing.
MAPPED_FROM_BYTES = 64 * 1024 * 1024


def zero_rows(*shape: int) -> Tensor:
    """Zeros, float32: in memory, or where they are many, in the cache folder, until nobody uses them.

    Where the disk refuses they are in memory too, which is said.
    """
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size < MAPPED_FROM_BYTES or not hasattr(os, "posix_fallocate"):
        return torch.zeros(shape)
    try:
        with tempfile.TemporaryFile(dir=cache_place()) as file:
            # Now, and not as they are written: a mapping of a full disk ends the process then.
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="r+", shape=shape))
    except OSError as error:
        say_not_written(cache_place(), error)
        return torch.zeros(shape)
