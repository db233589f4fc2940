"""The student inside an application: numpy, onnxruntime and Pillow, nothing else."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np

from vl2v_deploy.client.answers import Floats, Prediction, prediction_of, softmax
from vl2v_deploy.client.archive import bundle_from, remove_unpacked
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.images import DEFAULT_LIMITS, ImageSource, Limits, Pixels, warn_of_old_pillow
from vl2v_deploy.client.preprocess import pixels_from_source
from vl2v_deploy.client.providers import Providers
from vl2v_deploy.client.running import most_at_once, run_images, usable_session
from vl2v_deploy.client.session import AUTO, Runtime, check_signature, open_runtime, open_session
from vl2v_deploy.client.stream import Answer, OnError, answers_in_order, default_workers
from vl2v_deploy.client.verification import Verification, verify_golden
from vl2v_deploy.errors import ImageError

__all__ = ["Floats", "Prediction", "Student", "Verification", "open_session", "softmax"]


class Student:
    """A loaded bundle: encoded image in, label out. Safe to share between threads.

    Leaving its `with` block or `close` frees it; so does forgetting it. Sent to another process it is loaded
    again there, from the same place, in the same precision and on the same provider.

    bundle:  what it was loaded from
    runtime: execution provider, precision and threads, and why these
    limits:  what it refuses to decode

    >>> with Student.load("bundles/quickstart") as student:  # doctest: +SKIP
    ...     student.predict("photo.jpg").label
    'mammal'
    """

    def __init__(
        self, bundle: Bundle, session: Any, runtime: Runtime, limits: Limits, reload: Callable[[], Student]
    ) -> None:
        """What `load` makes; use that."""
        self.bundle, self.runtime, self.limits = bundle, runtime, limits
        self._session, self._reload, self._process = session, reload, os.getpid()
        # None after `relabel`: the threshold was fitted for other classes
        self._abstain_below = bundle.manifest.confidence.abstain_below or 0.0
        self._remove_files: Callable[[], Any] = lambda: None

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        *,
        precision: str = AUTO,
        providers: Providers = None,
        threads: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Student:
        """The student of a bundle, ready to answer.

        bundle:    directory written by `vl2v-deploy export`, a zip file of it, or an open Bundle
        precision: fp32, fp16, int8 or int8-symmetric, of those that the bundle holds. auto = on the CPU int8
                   where the bundle has it and the processor is faster in it; on CUDA and TensorRT fp16
                   where the bundle has it; else fp32. `runtime.why` says what was chosen and why
        providers: execution provider of onnxruntime that must run, or ProviderError: cpu, cuda, tensorrt or
                   its full name, alone or with options as (name, {option: value}), or several, of which the
                   first must run and the others take what it cannot. None = the CPU. auto = CUDA where it
                   runs, else the CPU; `runtime.why` says why not CUDA
        threads:   threads within an operator; None = ORT_INTRA_OP_NUM_THREADS where it is set, else the least
                   of the physical cores this process may run on and its CPU quota, rounded up. `runtime.why`
                   says which
        limits:    on what is decoded and unpacked

        Raises BundleError for a bundle that is damaged, whose file onnxruntime cannot load, whose graph is
        not what its manifest says, or without that precision, ProviderError for a provider
        that cannot run here, MissingExtra without onnxruntime, ValueError for threads below 1 or an
        ORT_INTRA_OP_NUM_THREADS that is no number.
        """
        warn_of_old_pillow()
        opened, unpacked = bundle_from(bundle, limits)
        try:
            session, runtime = open_runtime(opened, precision, providers, threads)
            check_signature(session, opened, opened.onnx_of(runtime.precision))
        except BaseException:
            remove_unpacked(unpacked, os.getpid())
            raise
        reload = partial(
            cls.load,
            Path(bundle.path if isinstance(bundle, Bundle) else bundle).absolute(),
            precision=runtime.precision,
            providers=runtime.provider if providers == AUTO else providers,
            threads=threads,
            limits=limits,
        )
        student = cls(opened, session, runtime, limits, reload)
        student._remove_files = weakref.finalize(student, remove_unpacked, unpacked, os.getpid())
        return student

    def __reduce__(self) -> tuple[Callable[..., Student], tuple[Any, ...]]:
        return _reloaded, (self._reload, self.runtime)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the session, and the files of a zipped bundle; calls under way finish, later ones raise."""
        self._session = None
        self._remove_files()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.bundle.classes

    @property
    def provider(self) -> str:
        return self.runtime.provider

    @property
    def precision(self) -> str:
        return self.runtime.precision

    def predict(self, image: ImageSource, *, top: int = 3, logits: bool = False) -> Prediction:
        """The label of one image.

        image:  path, encoded bytes, Pillow image, or uint8 array (H, W, 3) RGB or (H, W) grey
        top:    how many classes `Prediction.top` holds
        logits: whether `Prediction.logits` holds all of them

        Raises ImageError when the image cannot be used, ClosedError after `close`.
        """
        rows, _ = self.run(self.pixels(image)[None])
        return self.prediction_from_logits(rows[0], top=top, logits=logits)

    def embed(self, image: ImageSource) -> Floats:
        """The student's image embedding in the teacher's space; float32 (D,), L2-normalised."""
        embedding: Floats = self.run(self.pixels(image)[None])[1][0]
        return embedding

    def predict_batch(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        top: int = 3,
        logits: bool = False,
        embeddings: bool = False,
    ) -> list[Prediction]:
        """The label of each image, in order; arguments and errors as of `stream`."""
        answers = self.stream(
            images, batch_size=batch_size, workers=workers, top=top, logits=logits, embeddings=embeddings
        )
        return list(answers)

    def embed_batch(
        self, images: Iterable[ImageSource], *, batch_size: int = 32, workers: int | None = None
    ) -> Floats:
        """The embedding of each image, in order; float32 (N, D). Arguments and errors as of `stream`."""
        answers = self._answers(images, batch_size, workers, "raise")
        rows = [answer[1] for answer in answers if not isinstance(answer, ImageError)]
        return np.stack(rows) if rows else np.empty((0, self.bundle.embedding_dim), np.float32)

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        top: int = 3,
        logits: bool = False,
        embeddings: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> Generator[Prediction, None, None]: ...

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        top: int = 3,
        logits: bool = False,
        embeddings: bool = False,
        on_error: OnError,
    ) -> Generator[Prediction | ImageError, None, None]: ...

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        top: int = 3,
        logits: bool = False,
        embeddings: bool = False,
        on_error: OnError = "raise",
    ) -> Generator[Prediction | ImageError, None, None]:
        """The label of each image, in order, while later images are decoded; `images` may be endless.

        At most two batches of images are read ahead, and by the thread that reads the answers. An array is
        used when its turn comes: hand over a new one each time. To stop, stop reading.

        images:     as `predict` takes them
        batch_size: images that are run together, on the CPU at most 32: more are no faster there, and take
                    memory. The first answers wait for almost three batches to be read
        workers:    threads that decode; 1 = in the calling thread, without reading ahead. None = as many as
                    `runtime.threads`, at most 8
        top:        how many classes `Prediction.top` holds
        logits:     whether `Prediction.logits` holds all of them
        embeddings: whether `Prediction.embedding` holds it, as `embed` gives it
        on_error:   at an image that cannot be used, its ImageError is raised, after the answers to all images
                    before it; "yield" gives the ImageError in its place and goes on

        Raises ImageError, which names the image by its path, or by its number from 0; ValueError for an
        argument that makes no sense; ClosedError after `close`.
        """
        return (
            answer
            if isinstance(answer, ImageError)
            else self.prediction_from_logits(
                answer[0], top=top, logits=logits, embedding=answer[1] if embeddings else None
            )
            for answer in self._answers(images, batch_size, workers, on_error)
        )

    def _answers(
        self, images: Iterable[ImageSource], batch_size: int, workers: int | None, on_error: OnError
    ) -> Generator[Answer | ImageError, None, None]:
        workers = default_workers(self.runtime.threads) if workers is None else workers
        batch_size = min(batch_size, most_at_once(self.runtime) or batch_size)
        return answers_in_order(
            images, self.pixels, self.run, batch_size=batch_size, workers=workers, on_error=on_error
        )

    def pixels(self, image: ImageSource) -> Pixels:
        """The image as the graph takes it; uint8 (S, S, 3), `image` itself where it is that already."""
        bundle = self.bundle
        return pixels_from_source(image, bundle.image_size_px, self.limits, draft=bundle.draft)

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits (B, K) and embeddings (B, D), float32, of preprocessed images; on the CPU 32 at a time.

        images: uint8 (B, S, S, 3), as `pixels` gives them

        Raises ClosedError after `close`, and in a process that was forked after `load`; BundleError when the
        graph fails or answers in another shape, ProviderError when it fails on another provider than the CPU.
        """
        session = usable_session(self._session, self._process, self.bundle)
        return run_images(session, images, self.bundle, self.runtime)

    def prediction_from_logits(
        self, row: Floats, *, top: int = 3, logits: bool = False, embedding: Floats | None = None
    ) -> Prediction:
        """The prediction that a row of `run`'s logits stands for.

        row:       float32 (K,)
        top:       how many classes `Prediction.top` holds
        logits:    whether `Prediction.logits` holds the row
        embedding: float32 (D,), for `Prediction.embedding`
        """
        return prediction_of(
            row, self.classes, self.runtime, self.abstains, top=top, logits=logits, embedding=embedding
        )

    def abstains(self, probability: float) -> bool:
        """Whether an answer of this probability is better not relied on; of NaN too."""
        return not probability >= self._abstain_below

    def verify(self) -> Verification:
        """The golden samples run again here, encoded bytes to logits, against what export recorded.

        Raises BundleError when the golden samples are not of this bundle, ClosedError after `close`.
        """
        usable_session(self._session, self._process, self.bundle)  # closed, its files may be gone
        return verify_golden(self.bundle, self.runtime, self.run)


def _reloaded(reload: Callable[[], Student], first: Runtime) -> Student:
    """The student in another process, or a copy of it here; it answers for the same reasons.

    first: what it ran on before; another process may have fewer CPUs
    """
    student = reload()
    here = student.runtime
    why = first.why if here.threads == first.threads else f"{first.why}; loaded again: {here.why}"
    student.runtime = replace(here, why=why)
    return student
