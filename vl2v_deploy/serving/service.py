"""One served teacher: what both APIs do with a request once they have read it."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from fastapi import Request
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.errors import BusyError
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.serving.batcher import Batcher, Kind
from vl2v_deploy.serving.connections import unless_gone
from vl2v_deploy.serving.inputs import Refused
from vl2v_deploy.serving.limits import ClientLimits
from vl2v_deploy.serving.metrics import Metrics
from vl2v_deploy.serving.settings import ServeSettings

MAX_IMAGES, MAX_TEXTS = 256, 2048  # in one request


class Service:
    """A teacher with its queue, limits and counters.

    name:    of the model, in URLs and requests
    version: 12 hexadecimal digits that change whenever an answer of the teacher could
    """

    def __init__(self, teacher: Teacher, name: str, settings: ServeSettings) -> None:
        self.teacher, self.name, self.settings = teacher, name, settings
        self.version = hashlib.sha256(teacher.identity.encode()).hexdigest()[:12]
        self.metrics = Metrics()
        self.batcher = Batcher(
            teacher,
            self.metrics,
            max_batch=settings.max_batch,
            max_delay_ms=settings.max_delay_ms,
            max_queue=settings.max_queue,
        )
        self._limits = ClientLimits(settings.requests_per_minute, settings.images_per_minute)
        threads = default_threads().count
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="vl2v-decode")
        self._threads = asyncio.Semaphore(threads)  # those of the pool that are free
        self._held_pixels = 0

    def close(self) -> None:
        """Answers what was accepted, then ends all threads."""
        self.batcher.close()
        self._decoding.shutdown(cancel_futures=True)

    def require_key(self, request: Request) -> None:
        """Raises Refused (401) unless the request carries the server's key."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not self.settings.is_key(key if scheme.lower() == "bearer" else None):
            raise Refused(
                401, "the Authorization header holds no key of this server", {"WWW-Authenticate": "Bearer"}
            )

    def require_model(self, name: str | None) -> None:
        """Raises Refused (404) for the name of a model that is not served here; None is this one."""
        if name not in (None, self.name):
            raise Refused(404, f"model {name!r} is not served here; {self.name!r} is")

    async def embed_images(
        self, request: Request, count: int, decode: Callable[[], list[Image.Image]]
    ) -> npt.NDArray[np.float32]:
        """I(x) of a request's images; float32 (count, D).

        decode: gives them; called in another thread, once the client's limits allow so many

        Raises Refused, BusyError, ClosedError, and what the teacher raises.
        """
        self._admit(request, count, images=count, most=MAX_IMAGES)
        return await self._answered(request, "image", count, self._embed_decoded(decode))

    async def _embed_decoded(self, decode: Callable[[], list[Image.Image]]) -> Tensor:
        images = await self._in_a_thread(decode)
        pixels = sum(image.width * image.height for image in images)
        if self._held_pixels + pixels > self.settings.max_held_pixels:
            raise BusyError(f"{self._held_pixels} pixels of images wait to be embedded; try again later")
        self._held_pixels += pixels
        try:
            return await self.batcher.embed("image", images)
        finally:
            self._held_pixels -= pixels

    async def _in_a_thread(self, decode: Callable[[], list[Image.Image]]) -> list[Image.Image]:
        """Waits for a thread here: the pool's queue would keep what a client sent that hung up."""
        loop = asyncio.get_running_loop()

        def free(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._threads.release)

        await self._threads.acquire()
        try:
            job = self._decoding.submit(decode)
        except BaseException:
            self._threads.release()
            raise
        job.add_done_callback(free)
        return await asyncio.wrap_future(job)

    async def embed_texts(self, request: Request, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """T(c) of a request's texts; float32 (len(texts), D); raises as embed_images does."""
        self._admit(request, len(texts), images=0, most=MAX_TEXTS)
        return await self._answered(request, "text", len(texts), self.batcher.embed("text", texts))

    def _admit(self, request: Request, count: int, images: int, most: int) -> None:
        most = min(most, self.settings.max_queue)
        if not 1 <= count <= most:
            raise Refused(422, f"expected 1 to {most} of them in a request, got {count}")
        client = request.client.host if request.client else ""
        if wait_s := self._limits.wait_s(client, images):
            raise Refused(
                429,
                f"rate limit of this client reached; try again in {wait_s:.1f} s",
                {"Retry-After": str(math.ceil(wait_s)), "Retry-After-Ms": str(math.ceil(wait_s * 1000))},
            )

    async def _answered(
        self, request: Request, kind: Kind, count: int, embedding: Awaitable[Tensor]
    ) -> npt.NDArray[np.float32]:
        """The embeddings, which are given up when the client hangs up."""
        rows = await unless_gone(request, embedding)
        self.metrics.items.labels(kind).inc(count)
        return np.ascontiguousarray(rows.numpy(), dtype="<f4")


def served_name(names: Sequence[str]) -> str:
    """A model name that fits into a URL, from what a recipe calls its teacher.

    >>> served_name(("builtin:emojidg-teacher",))
    'emojidg-teacher'
    >>> served_name(("ViT-B-16", "laion2b_s34b_b88k"))
    'ViT-B-16'
    """
    last = re.split(r"[:/]", names[0].rstrip("/"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last) or "teacher"
