"""What a teacher is: anything that answers about images and texts with embeddings of one space.

`Teacher` is all that distillation, relabelling and the accuracy part of a benchmark ask of it; any Python
object that has these members will do. The other two protocols are optional.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from vl2v_deploy.errors import ModelError
from vl2v_deploy.method.zero_shot import mean_prompt_embedding


class Price(NamedTuple):
    """What a vendor takes for queries; None where it is not known."""

    usd_per_1k_images: float | None = None
    usd_per_1k_texts: float | None = None


@runtime_checkable
class Teacher(Protocol):
    """A vision-language model behind two queries, as a vendor sells them.

    identity:      names the teacher in records; changes whenever an answer could: weights, preprocessing
    embedding_dim: D
    image_size_px: side of the square that it looks at; larger images are of no use to it
    batch_size:    most images or texts in one query
    logit_scale:   s, exp of the learned temperature; None where the model has none or keeps it to itself
    price:         None where a query costs nothing
    """

    @property
    def identity(self) -> str: ...
    @property
    def embedding_dim(self) -> int: ...
    @property
    def image_size_px(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def logit_scale(self) -> float | None: ...
    @property
    def price(self) -> Price | None: ...

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """I(x): one for each image, of any size and mode; float32 (B, D) on the CPU, L2-normalised."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T(c): one for each text; float32 (len(texts), D) on the CPU, L2-normalised."""
        ...


@runtime_checkable
class FileTeacher(Teacher, Protocol):
    """A teacher that knows image files instead of looking at pixels: it has the answers already."""

    def embed_files(self, paths: Sequence[Path], sha256: Sequence[str]) -> Tensor:
        """I(x) of image files; float32 (B, D) on the CPU, L2-normalised.

        sha256: of each file's bytes, hexadecimal

        Raises ModelError that names the files it does not know.
        """
        ...


# Called as soon as an answer came, from one thread at a time: positions in what is bought and their
# embeddings, float32 (n, D) on the CPU, L2-normalised; answers that come meanwhile are given to one call
# together. When it returns, they are on disk; only then does the ledger count them as settled. An exception
# of it stops the purchase.
Keep = Callable[[Sequence[int], Tensor], None]


@runtime_checkable
class Vendor(Teacher, Protocol):
    """A teacher that is paid by the query and answers many requests at once.

    answered_version: of the model, as the last answer named it; None where answers do not name it
    """

    @property
    def answered_version(self) -> str | None: ...

    def buy_images(self, images: Iterable[Image.Image], keep: Keep) -> None:
        """Asks about each image, in requests of `batch_size`; images are pulled as requests go out.

        Answers come in any order. What is in flight when something fails is waited for and kept.

        Raises VendorError when the vendor refuses or gives up, BudgetError before more is spent than allowed.
        """
        ...

    def buy_texts(self, texts: Iterable[str], keep: Keep) -> None:
        """The same for texts."""
        ...


class ImageTower(NamedTuple):
    """A teacher's image encoder.

    module:     (B, 3, S, S) -> (B, D), not normalised; in eval mode
    size_px:    S
    mean, std:  of its input, in [0, 1] units
    projection: names of the parameters of its last map into the embedding space
    """

    module: nn.Module
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    projection: tuple[str, ...]


@runtime_checkable
class WhiteBox(Teacher, Protocol):
    """A teacher whose torch modules are in this process, to be timed, rewired and fed tensors.

    device:      where it computes
    image_tower: its image encoder, on that device
    """

    @property
    def device(self) -> torch.device: ...
    @property
    def image_tower(self) -> ImageTower: ...

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """The images as the image tower takes them; float32 (B, 3, S, S) on the CPU."""
        ...

    def embed_preprocessed(self, batch: Tensor) -> Tensor:
        """I(x) of what `preprocess` gave; float32 (B, D) on the CPU, L2-normalised."""
        ...

    def embed_pixels(self, images: Tensor) -> Tensor:
        """I(x) of uint8 (B, H, W, 3) RGB on any device; float32 (B, D) on that device, L2-normalised."""
        ...

    def fed_by_student(self, mean: Sequence[float], std: Sequence[float], size_px: int) -> WhiteBox:
        """The same teacher, but shown the student's normalised tensor (`normalization: faithful`).

        mean, std: of the student, in [0, 1] units
        size_px:   S of the student

        Raises ModelError unless S is the teacher's own input size.
        """
        ...


def require_teacher(found: Any) -> Teacher:
    """`found` itself, if it has all that `Teacher` asks for.

    Raises ModelError that names what it lacks, or for an identity that names nothing.
    """
    missing = [name for name in vars(Teacher) if not name.startswith("_") and not hasattr(found, name)]
    if missing:
        raise ModelError(
            f"teacher: {type(found).__name__} is no teacher: it has no {', '.join(missing)}; see "
            "vl2v_deploy.models.teacher.protocol.Teacher"
        )
    if not isinstance(found.identity, str) or not re.search(r"[A-Za-z0-9]", found.identity):
        raise ModelError(
            f"teacher: identity: expected text with a letter or digit, which names the model and changes "
            f"whenever its answers could, got {found.identity!r}"
        )
    teacher: Teacher = found
    return teacher


def require_logit_scale(teacher: Teacher) -> float:
    """s, by which cosines become logits: the zero-shot teacher's, KD's and RISE's targets, the student's.

    Raises ModelError where the teacher has none.
    """
    if teacher.logit_scale is None:
        raise ModelError(
            f"teacher: {teacher.identity} has no logit scale, without which cosines are no logits; "
            "set teacher.logit_scale in the recipe (100 for CLIP; or fit), or logit_scale of a Python teacher"
        )
    return teacher.logit_scale


def embed_pixels(teacher: Teacher, images: Tensor) -> Tensor:
    """I(x) of images that are pixels already, such as augmented ones; float32 (B, D), on their device.

    images: uint8 (B, H, W, 3) RGB
    """
    if isinstance(teacher, WhiteBox):
        return teacher.embed_pixels(images)
    pictures = [Image.fromarray(image) for image in images.cpu().numpy()]
    return teacher.embed_images(pictures).to(images.device)


def device_of(teacher: Teacher) -> torch.device:
    """Where a teacher wants its pixels: the device it computes on, or the CPU where that is not here."""
    return teacher.device if isinstance(teacher, WhiteBox) else torch.device("cpu")


def embed_in_batches(teacher: Teacher, texts: Sequence[str]) -> Tensor:
    """T(c) of any number of texts, in queries of the teacher's size; float32 (len(texts), D)."""
    size = teacher.batch_size
    batches = [teacher.embed_texts(texts[at : at + size]) for at in range(0, len(texts), size)]
    return torch.cat(batches) if batches else torch.empty(0, teacher.embedding_dim)


def prompt_classifier(teacher: Teacher, prompts: Sequence[Sequence[str]]) -> Tensor:
    """T: one text embedding for each class, averaged over its own prompts; float32 (K, D), L2-normalised.

    The teacher is asked; EmbeddingStore.prompt_classifier remembers what a vendor has answered.

    prompts: for each of K classes one or more whole texts
    """
    return classifier_of_texts(prompts, lambda texts: embed_in_batches(teacher, texts))


def classifier_of_texts(
    prompts: Sequence[Sequence[str]], embed_texts: Callable[[Sequence[str]], Tensor]
) -> Tensor:
    """The same, where `embed_texts` gives T(c) of each text, (n, D)."""
    distinct = list(dict.fromkeys(text for texts in prompts for text in texts))
    embeddings = dict(zip(distinct, embed_texts(distinct), strict=True))
    by_class = [torch.stack([embeddings[text] for text in texts]) for texts in prompts]  # each (T, D)
    return torch.cat([mean_prompt_embedding(rows[:, None]) for rows in by_class])  # (K, D)
