"""Student features of whole image sets, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vl2v_deploy.client.preprocess import open_image, preprocess

BATCH_SIZE = 64


@torch.no_grad()
def compute_batched(
    compute: Callable[[Tensor], Tensor],
    paths: Sequence[Path],
    size_px: int,
    device: torch.device,
    description: str,
) -> Tensor:
    """`compute` of every image, un-augmented, batch by batch; (N, ...) float32 on the CPU.

    compute: uint8 (B, S, S, 3) on `device` -> (B, ...), such as Student.features
    size_px: S
    """
    total = -(-len(paths) // BATCH_SIZE)
    batches = track(
        pixel_batches(paths, size_px), description, total=total, console=Console(stderr=True), transient=True
    )
    return torch.cat([compute(pixels.to(device)).float().cpu() for pixels in batches])


def pixel_batches(paths: Sequence[Path], size_px: int) -> Iterator[Tensor]:
    """The images preprocessed as the client does it, decoded in parallel; uint8 (B, S, S, 3) each."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), BATCH_SIZE):
            chunk = paths[start : start + BATCH_SIZE]
            pixels = pool.map(lambda path: preprocess(open_image(path), size_px), chunk)
            yield torch.from_numpy(np.stack(list(pixels)))
