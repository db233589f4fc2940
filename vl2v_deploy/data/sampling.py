"""Training batches: the same number of images of every source domain, in an order that needs no state.

A batch is a pure function of (seed, step): any number of workers gives the same batches, and a
run can go on from any step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vl2v_deploy.data.augment import (
    Augment,
    ColourDraws,
    Draw,
    adjust_colours,
    colour_draws,
    crop,
    draw_augmentation,
    view_draw,
)
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.errors import RecipeError


def domain_rows(samples: Sequence[Sample], domains: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """For each domain, the rows of its samples."""
    return [
        np.array([row for row, sample in enumerate(samples) if sample.domain == domain], dtype=np.int64)
        for domain in domains
    ]


def batch_indices(
    rows_of: Sequence[npt.NDArray[np.int64]], per_domain: int | Sequence[int], seed: int, step: int
) -> npt.NDArray[np.int64]:
    """Rows of the batch of one step, domain after domain; of B images.

    Each domain is drawn without replacement, in a new random order in each of its own epochs, whatever comes
    after it.

    rows_of:    for each source domain, the rows of its training samples; then those of images without labels
    per_domain: how many rows of each; one number = as many of each
    """
    chosen = []
    counts = [per_domain] * len(rows_of) if isinstance(per_domain, int) else per_domain
    for domain, (rows, count) in enumerate(zip(rows_of, counts, strict=True)):
        positions = np.arange(step * count, (step + 1) * count)
        epochs, offsets = np.divmod(positions, len(rows))
        for epoch in np.unique(epochs):
            order = np.random.default_rng((seed, domain, int(epoch))).permutation(len(rows))
            chosen.append(rows[order[offsets[epochs == epoch]]])
    return np.concatenate(chosen)


@dataclass(frozen=True)
class StepBatch:
    """One step's images, cropped and flipped, and the colours that are still to be applied.

    rows:    (B,) int64, into the training samples
    views:   (B,) int64, which view of its image each is; 0 where every draw is fresh
    images:  uint8 (B, S, S, 3)
    colours: of these images
    """

    rows: Tensor
    views: Tensor
    images: Tensor
    colours: ColourDraws

    def augmented(self, device: torch.device | str) -> Tensor:
        """The images on `device` with their colours applied there; uint8 (B, S, S, 3)."""
        return adjust_colours(self.images.to(device, non_blocking=True), self.colours.to(device))

    def pin_memory(self) -> StepBatch:
        """The same in page-locked memory, from which a GPU copies while the program goes on."""
        return StepBatch(
            self.rows.pin_memory(),
            self.views.pin_memory(),
            self.images.pin_memory(),
            self.colours.pin_memory(),
        )


@dataclass(frozen=True)
class StepBatches:
    """The batch of any step.

    samples:     N training samples
    rows_of:     for each source domain, its rows in samples
    per_domain:  images of each domain in a batch, of all processes together
    unlabelled:  rows in samples of images without labels, and how many of them are in a batch besides
    augment:     what is drawn, and S
    seed:        of order and draws
    cache:       where decoded images come from
    views:       K = each image is shown in one of its K fixed views; 0 = in a fresh draw every time
    pin:         page-lock the batches, for a GPU
    rank, world: this process takes the positions rank, rank + world, ... of the whole batch
    """

    samples: Sequence[Sample]
    rows_of: Sequence[npt.NDArray[np.int64]]
    per_domain: int
    augment: Augment
    seed: int
    cache: ImageCache
    unlabelled: tuple[npt.NDArray[np.int64], int] | None = None
    views: int = 0
    pin: bool = False
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.whole < self.world:
            more = f" + {self.unlabelled[1]}" if self.unlabelled else ""
            raise RecipeError(
                f"distill.batch_per_domain: {len(self.rows_of)} source domains x {self.per_domain}{more} = "
                f"{self.whole} images in a step cannot be shared by {self.world} processes"
            )

    @property
    def whole(self) -> int:
        """Images in a batch, of all processes together."""
        return len(self.rows_of) * self.per_domain + (self.unlabelled[1] if self.unlabelled else 0)

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """Rows in samples of the whole batch of one step."""
        groups, counts = list(self.rows_of), [self.per_domain] * len(self.rows_of)
        if self.unlabelled:
            groups, counts = [*groups, self.unlabelled[0]], [*counts, self.unlabelled[1]]
        return batch_indices(groups, counts, self.seed, step)

    def batch(self, step: int) -> StepBatch:
        """The batch of one step.

        Raises ImageError when an image is gone or does not decode any more.
        """
        return self._batch(step, threading.Event())

    def in_order(self, steps: range, workers: int) -> Iterator[StepBatch]:
        """The batches of `steps`, made ahead by `workers` threads; 0 makes each when it is asked for.

        Threads, not processes: Pillow lets go of Python's lock while it decodes and resizes, they start at
        once, share the cache, and end with the iterator: within one image's work of its being closed.
        """
        if workers == 0:
            yield from map(self.batch, steps)
            return
        stop = threading.Event()
        with ThreadPoolExecutor(workers, **self._on_this_gpu()) as pool:
            try:
                ahead = deque(pool.submit(self._batch, step, stop) for step in steps[: 2 * workers])
                for following in range(len(steps)):
                    ready = ahead.popleft().result()
                    if following + 2 * workers < len(steps):
                        ahead.append(pool.submit(self._batch, steps[following + 2 * workers], stop))
                    yield ready
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _on_this_gpu(self) -> dict[str, Any]:
        """Page-locked memory belongs to a thread's current GPU, which starts as number 0 in every thread."""
        if not self.pin:
            return {}
        return {"initializer": torch.cuda.set_device, "initargs": (torch.cuda.current_device(),)}

    def _batch(self, step: int, stop: threading.Event) -> StepBatch:
        whole = self.rows(step)
        positions = range(self.rank, len(whole), self.world)
        rows = whole[self.rank :: self.world]
        images, draws, views = [], [], []
        for position, row in zip(positions, rows, strict=True):
            if stop.is_set():
                raise CancelledError
            rng = np.random.default_rng((self.seed, step, position, 1))
            image = Image.fromarray(self.cache.get(self.samples[row].path))
            view, draw = self._draw(self.samples[row], image, rng)
            images.append(crop(image, draw, self.augment.size_px))
            draws.append(draw)
            views.append(view)
        batch = StepBatch(
            torch.from_numpy(rows),
            torch.tensor(views),
            torch.from_numpy(np.stack(images)),
            colour_draws(draws),
        )
        return batch.pin_memory() if self.pin else batch

    def _draw(self, sample: Sample, image: Image.Image, rng: np.random.Generator) -> tuple[int, Draw]:
        if self.views == 0:
            return 0, draw_augmentation(self.augment.recipe, image.width, image.height, rng)
        view = int(rng.integers(self.views))
        return view, view_draw(self.augment.recipe, sample.sha256, view, image.width, image.height)
