"""Many images, decoded by threads a little ahead of the session, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.images import ImageSource, Pixels
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import ImageError

MOST_WORKERS = 8
# what happens at an image that cannot be used: its ImageError is raised, or yielded in place of an answer
OnError: TypeAlias = Literal["raise", "yield"]
# logits (K,) and embedding (D,)
Answer: TypeAlias = tuple[Floats, Floats]

Image = TypeVar("Image")
Item = TypeVar("Item")


def default_workers(threads: int | None) -> int:
    """How many threads decode: as many as the session has, at most 8.

    threads: of the session; None = onnxruntime's own choice
    """
    return min(default_threads().count if threads is None else threads, MOST_WORKERS)


def answers_in_order(
    images: Iterable[ImageSource],
    decode: Callable[[ImageSource], Pixels],
    run: Callable[[Pixels], tuple[Floats, Floats]],
    *,
    batch_size: int,
    workers: int,
    on_error: OnError,
) -> Generator[Answer | ImageError, None, None]:
    """What the student answers to each image, in order; see Student.stream.

    decode: one image -> uint8 (S, S, 3), or ImageError
    run:    (B, S, S, 3) -> logits (B, K), embeddings (B, D)

    Raises ValueError at once for an argument that makes no sense.
    """
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} {value}: expected at least 1")
    if on_error not in ("raise", "yield"):
        raise ValueError(f"on_error {on_error!r}: expected raise or yield")

    def decoded(numbered: tuple[int, ImageSource]) -> Pixels | ImageError:
        number, image = numbered
        try:
            return decode(image)
        except ImageError as error:
            # a new error, without the traceback, whose frames hold the image; paths name themselves
            problem = ImageError(str(error) if isinstance(image, str | Path) else f"image {number}: {error}")
            if on_error == "yield":
                return problem
            raise problem from error

    def answers() -> Generator[Answer | ImageError, None, None]:
        items = in_order(enumerate(images), decoded, workers=workers, ahead=2 * batch_size)
        with closing(items):
            for chunk in chunks(items, batch_size):
                good = [item for item in chunk if not isinstance(item, ImageError)]
                rows = zip(*run(np.stack(good)), strict=True) if good else iter(())
                for item in chunk:
                    yield item if isinstance(item, ImageError) else next(rows)

    return answers()


def in_order(
    images: Iterable[Image], decode: Callable[[Image], Item], *, workers: int, ahead: int
) -> Generator[Item, None, None]:
    """`decode` of each image, in order; never more than `ahead` are under way or waiting.

    What `decode` raises comes at its image's turn, and what `images` raises after all that came before it.
    `images` is only read by the thread that reads this. Closing stops it, once threads finish their image.

    workers: threads; 1 decodes in the calling thread, when asked
    """
    if workers == 1:
        yield from map(decode, images)
        return
    pending: deque[Future[Item]] = deque()
    iterator, failure = iter(images), None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vl2v-decode")
    try:
        while True:
            try:
                image = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            pending.append(pool.submit(decode, image))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last may be shorter; before an error of `items` comes what there was.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    chunk: list[Item] = []
    try:
        for item in items:
            chunk.append(item)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
