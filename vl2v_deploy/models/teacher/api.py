"""A vendor's model as the teacher of a cascade: httpx, numpy and Pillow, no torch.

`vl2v-deploy teacher pack BUNDLE` writes all that it takes into one file: which model, how it is asked, and
the text embeddings of the classes. The file holds no key, only the name of the variable with the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vl2v_deploy.client.cascade.kept import embedding_from_text
from vl2v_deploy.client.cascade.teacher import TeacherAnswers, probabilities_of, unit_rows
from vl2v_deploy.client.images import DEFAULT_LIMITS, ImageSource, Limits
from vl2v_deploy.client.preprocess import open_rgb
from vl2v_deploy.client.typed_json import from_json, to_json
from vl2v_deploy.errors import BundleError, DecodingError, MissingExtra, TeacherError, VendorError
from vl2v_deploy.models.teacher.http.answers import BadAnswer, checked_rows, read_rows
from vl2v_deploy.models.teacher.http.apis import open_api
from vl2v_deploy.models.teacher.http.apis.wire import EncodedImage, ImageFormat
from vl2v_deploy.models.teacher.http.identity import identity_of
from vl2v_deploy.models.teacher.http.images import encoded_image
from vl2v_deploy.regular_files import read_text

if TYPE_CHECKING:
    import httpx

    from vl2v_deploy.models.teacher.http.transport import Transport

FORMAT = 1
CONNECTIONS = 32


@dataclass(frozen=True)
class PackedImage:
    """What is sent of an image; fields as of recipe.SentImageRecipe."""

    size_px: int
    format: ImageFormat
    quality: int | None = None


@dataclass(frozen=True)
class PackedTeacher:
    """The whole of a teacher file; the fields up to timeout_s are as of recipe.HttpRecipe.

    identity:         of the teacher, as the embedding store knows it
    classes:          K names, in the order of the student's logits
    logit_scale:      s, by which cosines become logits
    class_embeddings: text embeddings (K, D), L2-normalised: base64 of little-endian float32
    """

    format: int
    api: str
    url: str
    host: str
    model: str
    text_model: str | None
    key_env: str | None
    dimensions: int
    image: PackedImage
    batch_size: int
    usd_per_1k_images: float
    timeout_s: float
    identity: str
    classes: tuple[str, ...]
    logit_scale: float
    class_embeddings: str

    @property
    def text_emb(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(K, D); ValueError where they are not."""
        flat = embedding_from_text(self.class_embeddings)
        return unit_rows(flat.reshape(len(self.classes), self.dimensions).astype(np.float64))


def text_of_packed(packed: PackedTeacher) -> str:
    """The teacher file's text."""
    return json.dumps(to_json(packed), indent=2, ensure_ascii=False) + "\n"


def load_packed(file: Path | str) -> PackedTeacher:
    """A teacher file; BundleError where it cannot be read or was changed by hand."""
    try:
        packed = from_json(PackedTeacher, json.loads(read_text(file)))
        if packed.format != FORMAT:
            raise ValueError(f"is of format {packed.format}, this version reads format {FORMAT}")
        _ = packed.text_emb
        found = identity_of(packed, open_api(packed, lambda _: {}))
        if found != packed.identity:
            raise ValueError(f"its settings are those of {found}, its embeddings are of {packed.identity}")
    except (OSError, ValueError, TeacherError, RecursionError) as error:
        raise BundleError(
            f"{file}: is no teacher file: {error}; write it with: vl2v-deploy teacher pack BUNDLE"
        ) from error
    return packed


class ApiTeacher:
    """Asks a vendor about images; a `Teacher` of a Cascade. Threads may share it.

    A request is sent once: a cascade does not wait for retries, its breaker does that. Where the API's
    answers have no index, images are asked about one by one, so that none can be taken for another.

    usd_per_query: price of an image
    identity:      as the embedding store knows the teacher
    classes:       of the student it was packed for
    """

    def __init__(
        self,
        packed: PackedTeacher,
        *,
        timeout_s: float | None = None,
        limits: Limits = DEFAULT_LIMITS,
        over: httpx.BaseTransport | None = None,
    ) -> None:
        """A teacher that is ready to be asked; nothing is sent.

        timeout_s: wait for an answer; None = as packed. The cascade's own `timeout_s` counts for its callers
        limits:    on what is decoded, as of `Student.load`: give it the student's. Images are decoded anew,
                   and the whole of each, where a student decodes a large JPEG at a fraction of its size
        over:      what carries the requests; None = the network

        Raises SettingError when the variable with the key is not set, MissingExtra without httpx.
        """
        self.packed, self._limits = packed, limits
        self._transport = _transport(packed, timeout_s or packed.timeout_s, over)
        get: Callable[[str], Any] = cache(lambda path: self._transport.get(path))
        self._wire = open_api(packed, get)
        self._text_emb = packed.text_emb
        self.usd_per_query = packed.usd_per_1k_images / 1000
        self.identity, self.classes = packed.identity, packed.classes

    @classmethod
    def load(
        cls,
        file: Path | str,
        *,
        timeout_s: float | None = None,
        limits: Limits = DEFAULT_LIMITS,
        url: str | None = None,
    ) -> Self:
        """The teacher of a file that `vl2v-deploy teacher pack` wrote.

        timeout_s, limits: as `ApiTeacher` has them
        url:               of the same model at another address; the identity stays that of the file

        Raises BundleError for a file that cannot be read, and what `ApiTeacher` raises.
        """
        packed = load_packed(file)
        return cls(packed if url is None else replace(packed, url=url), timeout_s=timeout_s, limits=limits)

    def __call__(self, images: list[ImageSource]) -> TeacherAnswers:
        """The vendor's answers.

        Raises TeacherError, which says whether anything may have been billed; ImageError, before anything is
        sent, for an image that the API does not take or that is beyond the limits.
        """
        try:
            sent = [self._encoded(image) for image in images]
        except DecodingError as error:  # no process to decode in could be started
            raise TeacherError(str(error), billed=False) from error
        size = self.packed.batch_size if self._wire.indexed else 1
        rows: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        version: str | None = None
        for start in range(0, len(images), size):
            try:
                found, version = self._ask(sent[start : start + size])
            except TeacherError as error:
                raise TeacherError(str(error), billed=error.billed or start > 0) from None
            rows.append(found)
        embeddings = np.concatenate(rows)  # (N, D)
        probabilities = probabilities_of(
            embeddings.astype(np.float64), self._text_emb, self.packed.logit_scale
        )
        return TeacherAnswers(probabilities, embeddings, version)

    def _encoded(self, image: ImageSource) -> EncodedImage:
        return encoded_image(open_rgb(image, self._limits), self.packed.image, self._wire.least_px)

    def _ask(self, sent: Sequence[EncodedImage]) -> tuple[np.ndarray[Any, np.dtype[np.float32]], str | None]:
        """Embeddings (B, D) of the images of one request, and the model's version where it is named."""
        from vl2v_deploy.models.teacher.http.transport import Failed

        try:
            request = self._wire.images(sent)
        except VendorError as error:  # KServe's model is asked first how it takes images, which is no query
            raise TeacherError(str(error), billed=False) from None
        outcome = self._transport.post(request)
        if isinstance(outcome, Failed):
            raise TeacherError(outcome.message, billed=outcome.paid)
        try:
            rows = read_rows(self._wire, outcome)
            version = self._transport.without_key(str(rows.version)) if rows.version else None
            return checked_rows(rows, len(sent), self.packed.dimensions, None), version
        except BadAnswer as fault:
            raise TeacherError(f"teacher: {self._transport.host}: {fault}") from None


def _transport(packed: PackedTeacher, timeout_s: float, over: httpx.BaseTransport | None) -> Transport:
    try:
        from vl2v_deploy.models.teacher.http.key import read_key
        from vl2v_deploy.models.teacher.http.transport import Transport
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise MissingExtra("httpx", "cascade") from error
    return Transport(
        packed.url,
        read_key(packed.key_env),
        open_api(packed, lambda _: {}).key_header,
        connections=CONNECTIONS,
        timeout_s=timeout_s,
        over=over,
    )
