"""Concurrent requests gathered into batches: for those who serve a student from Python.

A batch is run when it is full, when its first image has waited `max_delay_ms`, or when no other image is on
its way: a lone request is never held up, and while the session is busy the next batch fills by itself.
"""

from __future__ import annotations

import atexit
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Condition, Thread
from time import monotonic
from weakref import ref

import numpy as np

from vl2v_deploy.client.batcher_statistics import BatcherStatistics
from vl2v_deploy.client.preprocess import ImageSource, Pixels
from vl2v_deploy.client.queued import Waiting, require_limits, rows_in_order, tell_failure
from vl2v_deploy.client.student import Floats, Prediction, Student
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import BusyError, ClosedError

__all__ = ["BatcherStatistics", "MicroBatcher"]

_LOGGER = logging.getLogger("vl2v_deploy.client")


class MicroBatcher:
    """A student that runs the images of concurrent callers together. Safe to share between threads.

    Threads decode their own images, asyncio's are decoded by a pool; one thread runs the batches. An image
    that cannot be used is the error of its caller alone. All images have one shape and dtype, so a run that
    fails is no single image's fault: it is not repeated, each caller of that batch gets a BatchError, and
    later batches are tried as if nothing had happened.

    >>> with MicroBatcher(Student.load("bundles/quickstart")) as batcher:  # doctest: +SKIP
    ...     batcher.predict("photo.jpg").label
    'mammal'
    """

    def __init__(
        self,
        student: Student,
        *,
        max_batch: int = 32,
        max_delay_ms: float = 2.0,
        max_queue: int = 256,
        workers: int | None = None,
        observer: Callable[[Floats, Floats], None] | None = None,
    ) -> None:
        """A batcher that is open; `close` it, or use it in a `with` block.

        student:      who answers; stays open when the batcher is closed
        max_batch:    images in one run, at most
        max_delay_ms: how long the first image of a batch may wait for images still being decoded
        max_queue:    images accepted and not yet answered, at most; those beyond get a BusyError at once
        workers:      threads that decode for `predict_async`; None = one for each core that may be used
        observer:     called after each batch, once its callers have their answers, with its logits (B, K) and
                      embeddings (B, D), as Monitor.observe_outputs takes them; an error of it is logged

        Raises ValueError for a limit that makes no sense.
        """
        self.student, self._observer = student, observer
        self._max_batch, self._max_queue = max_batch, max_queue
        self._max_delay_s = max_delay_ms / 1000.0
        workers = default_threads().count if workers is None else workers
        require_limits(max_batch, max_delay_ms, max_queue, workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="vl2v-decode")
        self._changed = Condition()  # guards everything below
        self._waiting: deque[Waiting] = deque()
        self._in_flight = 0
        self._closed = False
        self._counts = dict.fromkeys(("batches", "answered", "refused", "failed", "cancelled", "rejected"), 0)
        # A daemon, so that a forgotten `close` does not keep Python from ending; what is pending then is
        # answered by the exit handler.
        self._thread = Thread(target=self._run_batches, name="vl2v-batcher", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def predict(self, image: ImageSource, *, top: int = 3, logits: bool = False) -> Prediction:
        """The label of one image; waits until its batch is run.

        image:  path, encoded bytes, Pillow image, or uint8 (H, W, 3) array
        top:    how many classes `Prediction.top` holds
        logits: put the logits into the prediction too

        Raises ImageError when the image cannot be used, BusyError when `max_queue` images are in flight,
        BatchError when the session failed, ClosedError after `close`.
        """
        row = self._submit(image).result()
        return self.student.prediction_from_logits(row, top=top, logits=logits)

    async def predict_async(self, image: ImageSource, *, top: int = 3, logits: bool = False) -> Prediction:
        """`predict` for asyncio; never blocks the event loop.

        A caller that is cancelled before its batch is run takes no place in it.
        """
        import asyncio  # here, as it takes its time to import; who awaits this has it already

        row = await asyncio.wrap_future(self._submit_to_pool(image))
        return self.student.prediction_from_logits(row, top=top, logits=logits)

    def predict_batch(
        self, images: Iterable[ImageSource], *, top: int = 3, logits: bool = False
    ) -> list[Prediction]:
        """The label of each image, in order; they are run together with those of other callers.

        At most two batches of them are in flight at once; where the queue is full they wait for each other.

        Raises what `predict` raises, BusyError only where none of them is in flight. An ImageError names its
        image by its path, or by its number from 0. An error ends it: what was not run yet is taken back.
        """
        most = min(2 * self._max_batch, self._max_queue)
        rows = rows_in_order(images, self._submit_to_pool, most)
        return [self.student.prediction_from_logits(row, top=top, logits=logits) for row in rows]

    @property
    def statistics(self) -> BatcherStatistics:
        """What was done until now."""
        with self._changed:
            return BatcherStatistics(**self._counts, in_flight=self._in_flight)

    def close(self) -> None:
        """Accept no more, answer what was accepted, end all threads; a second call does nothing.

        From asyncio: `await asyncio.to_thread(batcher.close)`, or `async with`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._pool.shutdown()
        atexit.unregister(self.close)

    def __enter__(self) -> MicroBatcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> MicroBatcher:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    # A refused image must not stay in memory until Python looks for circles: no frame of the error's trace
    # may hold the future that holds the error.

    def _submit(self, image: ImageSource) -> Future[Floats]:
        """The future logits of an image that is decoded by this thread."""
        self._accept()
        return self._enqueue(self._decoded(image), Future())

    def _submit_to_pool(self, image: ImageSource) -> Future[Floats]:
        """The future logits of an image that the pool is to decode."""
        self._accept()
        future: Future[Floats] = Future()
        held = [image]  # emptied for a caller that left: the pool keeps a cancelled job until its turn comes
        del image
        try:
            job = self._pool.submit(self._decoded_for, [future], held)
        except BaseException:  # Python takes no new work while it exits
            self._leave("failed")
            raise
        job.add_done_callback(lambda job: self._hand_over(job, future))
        waiting = ref(job)  # the pool holds it while it waits
        future.add_done_callback(lambda future: self._forget(waiting(), held) if future.cancelled() else None)
        return future

    def _forget(self, job: Future[Pixels] | None, held: list[ImageSource]) -> None:
        """Take the image of a caller that left out of the pool's queue, if it still waits there."""
        if job is not None and job.cancel():
            held.clear()
            self._leave("cancelled")

    def _decoded_for(self, waiting: list[Future[Floats]], held: list[ImageSource]) -> Pixels:
        # The pool's frames keep these lists from Python 3.14 on, and an error keeps its frames: both are
        # emptied, or the future would hold an error that holds the future.
        if waiting.pop().cancelled():
            self._leave("cancelled")
            raise CancelledError
        return self._decoded(held.pop())

    def _hand_over(self, job: Future[Pixels], future: Future[Floats]) -> None:
        """Queue what the pool has decoded, or tell its caller why not."""
        if job.cancelled():  # by `_forget`
            return
        error = job.exception()
        if error is None:
            self._enqueue(job.result(), future)
        elif future.set_running_or_notify_cancel():
            future.set_exception(error)

    def _decoded(self, image: ImageSource) -> Pixels:
        try:
            return self.student.pixels(image)
        except BaseException:
            self._leave("refused")
            raise

    def _accept(self) -> None:
        """Count one image in; from here on it must leave by `_leave`, or `close` would wait for ever."""
        if not self._thread.is_alive() and not self._closed:
            raise ClosedError(
                "this MicroBatcher was made before this process was forked: make a new one here"
            )
        with self._changed:
            if self._closed:
                raise ClosedError("this MicroBatcher is closed: make a new one")
            if self._in_flight >= self._max_queue:
                self._counts["rejected"] += 1
                raise BusyError(
                    f"{self._in_flight} images are in flight, max_queue is {self._max_queue}: try again later"
                )
            self._in_flight += 1

    def _enqueue(self, pixels: Pixels, future: Future[Floats]) -> Future[Floats]:
        with self._changed:
            self._waiting.append(Waiting(pixels, future, monotonic()))
            # The first starts the clock; from then on only a complete batch is worth waking the thread for.
            if len(self._waiting) == 1 or self._is_complete():
                self._changed.notify()
        return future

    def _leave(self, outcome: str, images: int = 1) -> None:
        """Count images out, before their callers get answers: one that asks again at once must find room."""
        with self._changed:
            self._in_flight -= images
            self._counts[outcome] += images
            if self._is_complete():
                self._changed.notify()

    def _is_complete(self) -> bool:
        """The batch is full, or every image in flight is in it; so too when none is left."""
        return len(self._waiting) >= min(self._max_batch, self._in_flight)

    def _run_batches(self) -> None:
        while self._next_is_run():
            pass

    def _next_is_run(self) -> bool:
        """Wait for a batch and run it; False when the batcher is closed and nothing is left."""
        with self._changed:
            while not self._waiting:
                if self._closed and not self._in_flight:
                    return False
                self._changed.wait()
            until_s = self._waiting[0].ready_s + self._max_delay_s
            while not self._is_complete() and (left_s := until_s - monotonic()) > 0:
                self._changed.wait(left_s)
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        wanted = [image for image in batch if image.future.set_running_or_notify_cancel()]
        if len(wanted) < len(batch):
            self._leave("cancelled", len(batch) - len(wanted))
        if wanted:
            self._run(wanted)
        return True

    def _run(self, batch: list[Waiting]) -> None:
        """Run a batch and tell each caller its own row, or that the session failed."""
        try:
            logits, embeddings = self._outputs([image.pixels for image in batch])
        except BaseException as error:  # whatever: this thread must live on, or every caller would hang
            self._finish_batch("failed", len(batch))
            tell_failure(batch, error)
            return
        self._finish_batch("answered", len(batch))
        for image, row in zip(batch, logits, strict=True):
            image.future.set_result(row)
        if self._observer is not None:
            try:
                self._observer(logits, embeddings)
            except Exception:  # this thread must live on
                _LOGGER.exception("the observer of a MicroBatcher failed on a batch of %d", len(batch))

    def _finish_batch(self, outcome: str, images: int) -> None:
        with self._changed:
            self._counts["batches"] += 1
        self._leave(outcome, images)

    def _outputs(self, pixels: list[Pixels]) -> tuple[Floats, Floats]:
        images = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)  # (B, S, S, 3)
        logits, embeddings = self.student.run(images)
        if len(logits) != len(pixels):
            raise ValueError(f"{len(pixels)} images went in, {len(logits)} rows came out")
        return logits, embeddings
