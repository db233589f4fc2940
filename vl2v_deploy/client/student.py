"""The student inside an application: numpy, onnxruntime and Pillow, nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.bundle import GOLDEN, Bundle, open_bundle
from vl2v_deploy.client.preprocess import ImageSource, Pixels, open_image, preprocess
from vl2v_deploy.errors import BundleError, MissingExtra, ProviderError

CPU = "CPUExecutionProvider"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What the student says of one image.

    label:       the most probable class
    index:       its index in the bundle's classes
    probability: softmax of the logits at `index`, in [0, 1]
    top:         (label, probability) of the most probable classes, falling
    abstained:   the probability is under the bundle's threshold: better not to rely on the label
    logits:      all K of them; None unless asked for
    """

    label: str
    index: int
    probability: float
    top: tuple[tuple[str, float], ...]
    abstained: bool
    logits: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Verification:
    """How far this machine's answers are from those recorded at export, and from the torch student's.

    samples:          number of golden samples
    argmax_agreement: share with the recorded label, in [0, 1]
    max_logit_error:  largest absolute difference of a logit from the recorded one
    max_pixel_error:  largest absolute difference of a preprocessed pixel, in [0, 255]
    max_torch_error:  largest absolute difference of a logit from the torch student's
    """

    samples: int
    argmax_agreement: float
    max_logit_error: float
    max_pixel_error: int
    max_torch_error: float


class Student:
    """A loaded bundle: encoded image in, label out. Safe to share between threads.

    >>> student = Student.load("bundles/quickstart")  # doctest: +SKIP
    >>> student.predict("photo.jpg").label  # doctest: +SKIP
    'mammal'
    """

    def __init__(self, bundle: Bundle, session: Any, provider: str, precision: str) -> None:
        self.bundle = bundle
        self.provider = provider
        self.precision = precision
        self._session = session
        # None after `relabel`: the threshold was fitted for other classes
        self._abstain_below = float(bundle.manifest["confidence"]["abstain_below"] or 0.0)

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        precision: str = "fp32",
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
    ) -> Student:
        """The student of a bundle directory, ready to answer.

        bundle:    directory written by `vl2v-deploy export`
        precision: fp32, fp16, int8 or int8-symmetric, of those that the bundle holds
        providers: onnxruntime execution providers; the first is the one that must run, else ProviderError
        threads:   threads within an operator; None = onnxruntime's own choice

        Raises BundleError for a damaged bundle or one without that precision, ProviderError for a
        provider that is not there, MissingExtra without onnxruntime.
        """
        opened = open_bundle(bundle)
        session = open_session(opened.onnx_of(precision), providers, threads)
        return cls(opened, session, session.get_providers()[0], precision)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.bundle.classes

    def predict(self, image: ImageSource, *, top: int = 3) -> Prediction:
        """The label of one image.

        image: path, encoded bytes, Pillow image, or uint8 (H, W, 3) array
        top:   how many classes `Prediction.top` holds

        Raises ImageError when the image cannot be used.
        """
        logits, _ = self.run(self.pixels(image)[None])
        return self.prediction_from_logits(logits[0], top=top)

    def predict_batch(
        self, images: Iterable[ImageSource], *, batch_size: int = 32, top: int = 3
    ) -> list[Prediction]:
        """The label of each image, in order; memory holds one batch at a time.

        Raises ImageError for the first image that cannot be used, ValueError for a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: expected at least 1")
        iterator = iter(images)
        predictions: list[Prediction] = []
        while chunk := [self.pixels(image) for image in islice(iterator, batch_size)]:
            logits, _ = self.run(np.stack(chunk))
            predictions += [self.prediction_from_logits(row, top=top) for row in logits]
        return predictions

    def embed(self, image: ImageSource) -> Floats:
        """The student's image embedding in the teacher's space; float32 (D,), L2-normalised."""
        embedding: Floats = self.run(self.pixels(image)[None])[1][0]
        return embedding

    def pixels(self, image: ImageSource) -> Pixels:
        """The image as the graph takes it; uint8 (S, S, 3)."""
        return preprocess(open_image(image), self.bundle.image_size_px)

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits (B, K) and embeddings (B, D), float32, of preprocessed images.

        images: uint8 (B, S, S, 3), as `pixels` gives them
        """
        logits, embedding = self._session.run(["logits", "embedding"], {"images": images})
        return logits, embedding

    def verify(self) -> Verification:
        """The golden samples run again here, encoded bytes to logits, against what export recorded."""
        golden_path = self.bundle.path / GOLDEN
        with np.load(golden_path, allow_pickle=False) as golden:
            names, pixels, torch_logits = golden["names"], golden["images"], golden["logits"]
            expected = golden[f"logits_{self.precision}"]
        here = np.stack([self.pixels(golden_path.parent / str(name)) for name in names])
        if here.shape != pixels.shape:
            raise BundleError(
                f"{golden_path}: golden images are {pixels.shape}, this client makes {here.shape}"
            )
        logits, _ = self.run(here)
        return Verification(
            samples=len(names),
            argmax_agreement=float((logits.argmax(1) == expected.argmax(1)).mean()),
            max_logit_error=float(np.abs(logits - expected).max()),
            max_pixel_error=int(np.abs(here.astype(np.int16) - pixels.astype(np.int16)).max()),
            max_torch_error=float(np.abs(logits - torch_logits).max()),
        )

    def prediction_from_logits(self, row: Floats, *, top: int = 3, logits: bool = False) -> Prediction:
        """The prediction that a row of `run`'s logits stands for.

        row:    float32 (K,)
        top:    how many classes `Prediction.top` holds
        logits: whether `Prediction.logits` holds the row
        """
        probabilities = softmax(row)
        order = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((self.classes[i], float(probabilities[i])) for i in order)
        first = int(row.argmax())
        probability = float(probabilities[first])
        return Prediction(
            label=self.classes[first],
            index=first,
            probability=probability,
            top=ranked,
            abstained=probability < self._abstain_below,
            logits=tuple(row.tolist()) if logits else None,
        )


def softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Probabilities of logits along the last axis; same shape, sums to 1.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32)).tolist()
    [0.5, 0.5]
    """
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def open_session(onnx: Path | bytes, providers: Sequence[str] = (CPU,), threads: int | None = None) -> Any:
    """An onnxruntime session that runs on the first of `providers`, or ProviderError.

    onnx: the file, or its bytes
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    available = onnxruntime.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing or not providers:
        raise ProviderError(
            f"execution provider {', '.join(missing) or '(none named)'} is not in this onnxruntime; "
            f"available: {', '.join(available)}; for CUDA or TensorRT uninstall onnxruntime, then run: "
            "pip install 'vl2v-deploy[gpu]'"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        onnx if isinstance(onnx, bytes) else os.fspath(onnx), options, providers=list(providers)
    )
    in_use = session.get_providers()[0]
    if (
        in_use != providers[0]
    ):  # onnxruntime falls back by itself; a vendor's customer must not find out later
        raise ProviderError(
            f"{providers[0]} was asked for but onnxruntime chose {in_use}: its libraries did not load"
        )
    return session
