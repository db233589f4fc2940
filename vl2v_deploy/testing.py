"""The contract that every teacher keeps, as checks to run on your own.

    from vl2v_deploy.testing import check_teacher

    def test_my_teacher():
        check_teacher(MyTeacher(), sorted(Path("some/images").glob("*.jpg")), ["a photo of a cat", "a dog"])

With pytest, parametrize over `TEACHER_CHECKS` to see each of them by name. A check asks the teacher about the
given images and texts a few times over: with a paid one, a handful of each will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.images import TRUSTED, open_image
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.keys import content_key
from vl2v_deploy.models.teacher.protocol import FileTeacher, Price, Teacher, require_teacher

# Of a coordinate of a normalised embedding. Batches of other sizes may use other kernels and round otherwise.
TOLERANCE = 1e-4
# Two different images or texts are at least so far apart in some coordinate, or the teacher ignores them.
DIFFERENT = 1e-6

Images = Sequence[Path]
Texts = Sequence[str]
Check = Callable[[Teacher, Images, Texts], None]


def check_teacher(teacher: Teacher, images: Images, texts: Texts) -> None:
    """Runs every check of `TEACHER_CHECKS`.

    images: files of at least two different images; a teacher that knows files must know these
    texts:  at least two different texts

    Raises AssertionError that says what was expected and what came, ModelError for what is no teacher.
    """
    require_teacher(teacher)
    for check in TEACHER_CHECKS.values():
        check(teacher, images, texts)


def check_identities(teacher: Teacher, others: Sequence[Teacher]) -> None:
    """That teachers of other weights or other preprocessing have another identity.

    others: each of them answers otherwise than `teacher`
    """
    for other in others:
        assert other.identity != teacher.identity, (
            f"identity: {teacher.identity!r} is that of two teachers: their embeddings would be mixed up"
        )


def check_declarations(teacher: Teacher, images: Images, texts: Texts) -> None:  # noqa: ARG001
    """Identity, dimension, sizes, logit scale and price are usable."""
    identity = teacher.identity
    assert isinstance(identity, str) and identity.strip() and len(identity.splitlines()) == 1, (
        f"identity: expected one line of text, got {identity!r}"
    )
    for name in ("embedding_dim", "image_size_px", "batch_size"):
        value = getattr(teacher, name)
        assert isinstance(value, int) and value > 0, f"{name}: expected a whole number above 0, got {value!r}"
    scale = teacher.logit_scale
    assert scale is None or (math.isfinite(scale) and scale > 0), (
        f"logit_scale: expected a number above 0 or None, got {scale!r}"
    )
    price = teacher.price
    assert price is None or isinstance(price, Price), f"price: expected a Price or None, got {price!r}"
    for usd in price or ():
        assert usd is None or (math.isfinite(usd) and usd >= 0), f"price: expected USD or None, got {usd!r}"


def check_shapes_and_norms(teacher: Teacher, images: Images, texts: Texts) -> None:
    """Answers are float32 (B, D) on the CPU, finite and of norm 1."""
    _require_two(images, texts)
    for what, rows, count in (
        ("images", _image_emb(teacher, images), len(images)),
        ("texts", _text_emb(teacher, texts), len(texts)),
    ):
        assert isinstance(rows, Tensor), f"{what}: expected a torch tensor, got {type(rows).__name__}"
        assert rows.dtype == torch.float32 and rows.device.type == "cpu", (
            f"{what}: expected float32 on the CPU, got {rows.dtype} on {rows.device}"
        )
        assert rows.shape == (count, teacher.embedding_dim), (
            f"{what}: expected shape {(count, teacher.embedding_dim)}, got {tuple(rows.shape)}"
        )
        norms = rows.norm(dim=1)
        assert bool(((norms - 1).abs() < TOLERANCE).all()), (
            f"{what}: expected embeddings of norm 1, got {norms.tolist()}"
        )


def check_order_and_distinction(teacher: Teacher, images: Images, texts: Texts) -> None:
    """Each answer is of its own question: asked in reverse they come in reverse, and they differ."""
    _require_two(images, texts)
    for what, rows, reverse in (
        ("images", _image_emb(teacher, images), _image_emb(teacher, images[::-1])),
        ("texts", _text_emb(teacher, texts), _text_emb(teacher, texts[::-1])),
    ):
        _require_close(reverse.flip(0), rows, f"{what}: asked in reverse order")
        assert _furthest(rows[1:], rows[:1]) > DIFFERENT, f"{what}: different ones have one embedding"


def check_same_answer_again(teacher: Teacher, images: Images, texts: Texts) -> None:
    """The same question has the same answer."""
    _require_close(_image_emb(teacher, images), _image_emb(teacher, images), "images: asked twice")
    _require_close(_text_emb(teacher, texts), _text_emb(teacher, texts), "texts: asked twice")


def check_batch_size_changes_nothing(teacher: Teacher, images: Images, texts: Texts) -> None:
    """An answer does not depend on what else is in the query."""
    alone = torch.cat([_image_emb(teacher, [image]) for image in images])
    _require_close(alone, _image_emb(teacher, images), "images: one in each query")
    alone = torch.cat([_text_emb(teacher, [text]) for text in texts])
    _require_close(alone, _text_emb(teacher, texts), "texts: one in each query")


def check_odd_images(teacher: Teacher, images: Images, texts: Texts) -> None:  # noqa: ARG001
    """Images of any mode and shape are answered; of files that it does not know, a teacher says so."""
    if isinstance(teacher, FileTeacher):
        try:
            teacher.embed_files([Path("no_domain/no_class/no_image.png")], ["0" * 64])
        except ModelError as error:
            assert "no_image.png" in str(error), f"the unknown file is not named: {error}"
            return
        raise AssertionError("a file that it cannot know was answered")
    picture = open_image(images[0], TRUSTED)
    odd = [picture.convert(mode) for mode in ("L", "P", "RGBA", "CMYK")] + [
        Image.new("RGB", size, "red") for size in ((3, 200), (200, 3))
    ]
    for start in range(0, len(odd), teacher.batch_size):
        query = odd[start : start + teacher.batch_size]
        rows = teacher.embed_images(query)
        assert rows.shape == (len(query), teacher.embedding_dim) and bool(rows.isfinite().all()), (
            f"images of other modes and shapes: expected {len(query)} finite embeddings, got shape "
            f"{tuple(rows.shape)} with {int((~rows.isfinite()).sum())} values that are not finite"
        )


TEACHER_CHECKS: dict[str, Check] = {
    "declarations": check_declarations,
    "shapes_and_norms": check_shapes_and_norms,
    "order_and_distinction": check_order_and_distinction,
    "same_answer_again": check_same_answer_again,
    "batch_size_changes_nothing": check_batch_size_changes_nothing,
    "odd_images": check_odd_images,
}


def _image_emb(teacher: Teacher, images: Images) -> Tensor:
    """The teacher's answers in queries of its own size, as the embedding store asks."""
    if isinstance(teacher, FileTeacher):
        return teacher.embed_files(images, [content_key(path).hex() for path in images])
    return torch.cat(
        [
            teacher.embed_images([open_image(path, TRUSTED) for path in images[at : at + teacher.batch_size]])
            for at in range(0, len(images), teacher.batch_size)
        ]
    )


def _text_emb(teacher: Teacher, texts: Texts) -> Tensor:
    size = teacher.batch_size
    return torch.cat([teacher.embed_texts(texts[at : at + size]) for at in range(0, len(texts), size)])


def _require_two(images: Images, texts: Texts) -> None:
    assert len(images) > 1 and len(texts) > 1, "give at least two images and two texts"


def _require_close(got: Tensor, expected: Tensor, what: str) -> None:
    far = _furthest(got, expected)
    assert far <= TOLERANCE, f"{what}: an embedding moved by {far:.1e} in a coordinate (allowed {TOLERANCE})"


def _furthest(rows: Tensor, others: Tensor) -> float:
    return float((rows - others).abs().max())
