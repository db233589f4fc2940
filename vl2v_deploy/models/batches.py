"""Batches of one size: so that an answer has the same bits whatever it was computed beside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_full_batch(compute: Callable[[Tensor], Tensor], batch: Tensor, size: int) -> Tensor:
    """`compute` of at most `size` rows, filled up to so many; float32 (B, ...) on the CPU.

    Another batch size may use other kernels and round otherwise. Filled up, an image's answer does not depend
    on what it shares a batch with, nor on where a killed run was resumed.

    compute: (size, ...) -> (size, ...)
    batch:   (B, ...), 0 < B <= size
    """
    missing = size - len(batch)
    filled = torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])]) if missing > 0 else batch
    return compute(filled)[: len(batch)].float().cpu()
