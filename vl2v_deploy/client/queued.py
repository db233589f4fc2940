"""Many images of one caller through a queue that is shared with others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.images import ImageSource
from vl2v_deploy.errors import BusyError, ImageError


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
