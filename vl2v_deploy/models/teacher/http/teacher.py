"""A teacher behind an HTTP API; a `Vendor` (see models.teacher.protocol)."""

from __future__ import annotations

import ipaddress
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial
from itertools import count
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import torch
from PIL import Image
from torch import Tensor

from vl2v_deploy.errors import ImageError
from vl2v_deploy.models.group_commit import GroupCommit
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledger_file
from vl2v_deploy.models.ledger.pacer import Pacer
from vl2v_deploy.models.teacher.http.apis import open_api
from vl2v_deploy.models.teacher.http.apis.wire import EncodedImage
from vl2v_deploy.models.teacher.http.asking import Asker, Question
from vl2v_deploy.models.teacher.http.identity import identity_of
from vl2v_deploy.models.teacher.http.images import encoded_image
from vl2v_deploy.models.teacher.http.key import read_key
from vl2v_deploy.models.teacher.http.purchase import ENCODERS, Lot, ask_all, encoded_ahead, lots
from vl2v_deploy.models.teacher.http.transport import Transport
from vl2v_deploy.models.teacher.protocol import Keep, Price
from vl2v_deploy.recipe import HttpRecipe
from vl2v_deploy.torchrun import is_first_process

S = TypeVar("S")


class HttpTeacher:
    """The model that a recipe names, behind its API. Nothing is sent, and no key read, before it is asked.

    recipe: its teacher section
    ledger: what is spent with its key
    pacer:  when the next request may go out
    over:   what carries the requests; None = the network
    """

    def __init__(
        self, recipe: HttpRecipe, ledger: Ledger, pacer: Pacer, *, over: httpx.BaseTransport | None = None
    ) -> None:
        self.recipe, self._ledger, self._pacer, self._over = recipe, ledger, pacer, over
        self._wire = open_api(recipe, cache(lambda path: self._transport.get(path)))
        self._announced = False
        self._lots = count(1)  # of all purchases: which item is sent twice goes round

    @cached_property
    def identity(self) -> str:
        """API, model and host, and the hash of all settings that can change an answer."""
        return identity_of(self.recipe, self._wire)

    @property
    def embedding_dim(self) -> int:
        return self.recipe.dimensions

    @property
    def image_size_px(self) -> int:
        return self.recipe.image.size_px

    @property
    def batch_size(self) -> int:
        """Items of one request; one less than it holds where an item is sent twice."""
        held = self.recipe.batch_size
        return held if self._wire.indexed or held == 1 else held - 1

    @property
    def logit_scale(self) -> float | None:
        """The recipe's number; None where it is to be fitted."""
        return None if self.recipe.logit_scale == "fit" else self.recipe.logit_scale

    @property
    def price(self) -> Price | None:
        images, texts = self.recipe.usd_per_1k_images, self.recipe.usd_per_1k_texts
        return Price(images, texts) if images or texts else None

    @property
    def answered_version(self) -> str | None:
        """Version of the model, as the last answer named it."""
        return self._asker.version if "_asker" in vars(self) else None

    def buy_images(self, images: Iterable[Image.Image], keep: Keep) -> None:
        """Asks about each image; see Vendor."""
        asker = self._asker  # before anything is pulled: a missing key is an error of its own
        self._announce()
        stop = threading.Event()
        with ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode") as pool:
            together = max(1, self.batch_size // ENCODERS)
            encoded = encoded_ahead(images, self._encoded, pool, stop, together)
            self._buy(lots(encoded, self.batch_size), asker, self._about_images, keep, stop)

    def buy_texts(self, texts: Iterable[str], keep: Keep) -> None:
        """Asks about each text; see Vendor."""
        ready = (partial(str, text) for text in texts)
        self._buy(lots(ready, self.batch_size), self._asker, self._about_texts, keep, threading.Event())

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """I(x), bought and kept by nobody but the caller; float32 (B, D) on the CPU, L2-normalised."""
        rows = torch.empty(len(images), self.embedding_dim)
        self.buy_images(images, partial(_fill, rows))
        return rows

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T(c), bought and kept by nobody but the caller; float32 (N, D) on the CPU, L2-normalised."""
        rows = torch.empty(len(texts), self.embedding_dim)
        self.buy_texts(texts, partial(_fill, rows))
        return rows

    @cached_property
    def _transport(self) -> Transport:
        recipe = self.recipe
        return Transport(
            recipe.url,
            read_key(recipe.key_env),
            self._wire.key_header,
            connections=recipe.concurrency,
            timeout_s=recipe.timeout_s,
            over=self._over,
        )

    @cached_property
    def _asker(self) -> Asker:
        return Asker(
            self.identity, self.embedding_dim, self._wire, self._transport, self._ledger, self._pacer
        )

    def _buy(
        self,
        wanted: Iterable[Lot[S]],
        asker: Asker,
        about: Callable[[Sequence[S], range], Question],
        keep: Keep,
        stop: threading.Event,
    ) -> None:
        def keep_together(answers: Sequence[tuple[range, Tensor]]) -> Sequence[None]:
            positions = [position for asked, _ in answers for position in asked]
            keep(positions, torch.cat([embeddings for _, embeddings in answers]))
            return [None] * len(answers)

        kept: GroupCommit[tuple[range, Tensor], None] = GroupCommit(keep_together)

        def ask(lot: Lot[S]) -> None:
            positions = range(lot.start, lot.start + len(lot.items))
            question = about([item() for item in lot.items], positions)
            asker.ask(question, lambda embeddings: kept((positions, embeddings)), stop)

        ask_all(wanted, ask, self.recipe.concurrency, stop)

    def _encoded(self, position: int, image: Image.Image) -> EncodedImage:
        try:
            return encoded_image(image, self.recipe.image, self._wire.least_px)
        except ImageError as error:
            raise ImageError(f"image {position}: {error}") from error

    def _about_images(self, images: Sequence[EncodedImage], positions: range) -> Question:
        repeated = self._repeated(len(images))
        sent = images if repeated is None else [*images, images[repeated]]
        price = self.recipe.usd_per_1k_images
        return Question(self._wire.images(sent), len(images), repeated, len(sent), 0, price, positions)

    def _about_texts(self, texts: Sequence[str], positions: range) -> Question:
        repeated = self._repeated(len(texts))
        sent = texts if repeated is None else [*texts, texts[repeated]]
        price = self.recipe.usd_per_1k_texts
        return Question(self._wire.texts(sent), len(texts), repeated, 0, len(sent), price, positions)

    def _repeated(self, items: int) -> int | None:
        """The item that stands once more at the end of a request, to check the order where it is not told.

        It starts with the second, which shows both a reversal and that the first two changed places.
        """
        return None if self._wire.indexed or items == 1 else next(self._lots) % items

    def _announce(self) -> None:
        """Says once where images go; of several processes on a run the first does."""
        if self._announced or not is_first_process():
            return
        self._announced = True
        host, size_px = self._transport.host, self.image_size_px
        leave = "are sent" if _is_here(host) else "leave this machine: they are sent"
        print(f"Images {leave} to {host}, scaled to {size_px} px and without metadata.", file=sys.stderr)


def load_http(recipe: HttpRecipe) -> HttpTeacher:
    """The teacher behind an API, with the ledger and the pace that all processes with its key share."""
    file = ledger_file(recipe.host, recipe.key_env)
    pacer = Pacer(
        file.with_suffix(".pace"),
        requests_per_minute=recipe.requests_per_minute,
        images_per_minute=recipe.images_per_minute,
    )
    return HttpTeacher(recipe, Ledger(file, Budget(recipe.budget.max_usd, recipe.budget.max_queries)), pacer)


def _fill(rows: Tensor, positions: Sequence[int], embeddings: Tensor) -> None:
    rows[list(positions)] = embeddings


def _is_here(host: str) -> bool:
    """Whether a host, with or without port, is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
