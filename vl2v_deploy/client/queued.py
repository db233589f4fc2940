"""Images that wait in a queue that is shared with others, those of one caller among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.images import ImageSource, Pixels
from vl2v_deploy.errors import BatchError, BusyError, ImageError

LONGEST_DELAY_MS = 60_000


@dataclass(slots=True)
class Waiting:
    """A decoded image that waits to be run.

    ready_s: `monotonic` when it came
    """

    pixels: Pixels
    future: Future[Floats]
    ready_s: float


def tell_failure(batch: Sequence[Waiting], error: BaseException) -> None:
    """A BatchError for each caller of a batch on which the session failed."""
    words = f"the session failed on a batch of {len(batch)}: {type(error).__name__}: {error}"
    for image in batch:
        failure = BatchError(words)
        failure.__cause__ = error  # one exception each: raising adds to its traceback
        image.future.set_exception(failure)


def require_limits(max_batch: int, max_delay_ms: float, max_queue: int, workers: int) -> None:
    """ValueError for a limit of a MicroBatcher that makes no sense."""
    if max_batch < 1:
        raise ValueError(f"max_batch {max_batch}: expected at least 1")
    if not 0 <= max_delay_ms <= LONGEST_DELAY_MS:
        raise ValueError(f"max_delay_ms {max_delay_ms}: expected 0 to {LONGEST_DELAY_MS}")
    if max_queue < max_batch:
        raise ValueError(f"max_queue {max_queue}: expected at least max_batch, {max_batch}")
    if workers < 1:
        raise ValueError(f"workers {workers}: expected at least 1")


def rows_in_order(
    images: Iterable[ImageSource], submit: Callable[[ImageSource], Future[Floats]], most: int
) -> list[Floats]:
    """What the queue answers to each image, in order.

    submit: hands an image to the queue; BusyError where that is full
    most:   images in flight at once

    Raises what an answer raises, after which images that were not run yet are cancelled, and BusyError where
    the queue is full of others' images. An ImageError names its image by path, or by number from 0.
    """
    rows: list[Floats] = []
    pending: deque[tuple[ImageSource, Future[Floats]]] = deque()

    def finish_oldest() -> None:
        image, future = pending.popleft()
        try:
            rows.append(future.result())
        except ImageError as error:
            if isinstance(image, str | Path):
                raise
            raise ImageError(f"image {len(rows)}: {error}") from error
        finally:
            del future  # it holds the error, whose traceback holds this frame

    try:
        for image in images:
            if len(pending) == most:
                finish_oldest()
            while True:
                try:
                    pending.append((image, submit(image)))
                    break
                except BusyError:
                    if not pending:
                        raise
                finish_oldest()
        while pending:
            finish_oldest()
    finally:
        for _, future in pending:
            future.cancel()
    return rows
