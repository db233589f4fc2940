"""Training batches: the same number of images of every source domain, in an order that needs no state.

A batch is a pure function of (seed, step): any number of workers gives the same batches, and a
run can go on from any step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vl2v_deploy.client.preprocess import open_image, to_rgb
from vl2v_deploy.data.augment import Augment
from vl2v_deploy.data.domains import Sample


def domain_rows(samples: Sequence[Sample], domains: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """For each domain, the rows of its samples."""
    return [
        np.array([row for row, sample in enumerate(samples) if sample.domain == domain], dtype=np.int64)
        for domain in domains
    ]


def batch_indices(
    rows_of: Sequence[npt.NDArray[np.int64]], per_domain: int, seed: int, step: int
) -> npt.NDArray[np.int64]:
    """Rows of the batch of one step; (len(rows_of) * per_domain,).

    Each domain is walked in a new random order every epoch of its own, without replacement.

    rows_of: for each source domain, the rows of its training samples
    """
    chosen = []
    for domain, rows in enumerate(rows_of):
        positions = np.arange(step * per_domain, (step + 1) * per_domain)
        epochs, offsets = np.divmod(positions, len(rows))
        for epoch in np.unique(epochs):
            order = np.random.default_rng((seed, domain, int(epoch))).permutation(len(rows))
            chosen.append(rows[order[offsets[epochs == epoch]]])
    return np.concatenate(chosen)


@dataclass(frozen=True)
class StepBatches:
    """The augmented batch of any step.

    samples:    N training samples
    rows_of:    for each source domain, its rows in samples
    per_domain: images of each domain in a batch
    """

    samples: Sequence[Sample]
    rows_of: Sequence[npt.NDArray[np.int64]]
    per_domain: int
    augment: Augment
    seed: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Rows (B,) into samples, and their augmented images, uint8 (B, S, S, 3)."""
        rows = batch_indices(self.rows_of, self.per_domain, self.seed, step)
        images = []
        for position, row in enumerate(rows):
            rng = np.random.default_rng((self.seed, step, position, 1))
            images.append(self.augment(to_rgb(open_image(self.samples[row].path)), rng))
        return torch.from_numpy(rows), torch.from_numpy(np.stack(images))

    def in_order(self, steps: range, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of `steps`, made ahead by `workers` threads; 0 makes each when it is asked for.

        Threads, not processes: Pillow lets go of Python's lock while it decodes and resizes, they start at
        once, and they end with the run.
        """
        if workers == 0:
            yield from map(self.batch, steps)
            return
        with ThreadPoolExecutor(workers) as pool:
            ahead = deque(pool.submit(self.batch, step) for step in steps[: 2 * workers])
            try:
                for step in steps:
                    ready = ahead.popleft().result()
                    following = step + 2 * workers
                    if following in steps:
                        ahead.append(pool.submit(self.batch, following))
                    yield ready
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
