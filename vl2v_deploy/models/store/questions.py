"""What a teacher is asked about image files, texts and views: a `Question` each, over their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from torch import Tensor

from vl2v_deploy.client.images import TRUSTED, open_image, source_name
from vl2v_deploy.data.content import read_unchanged
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.models.store.asking import Question
from vl2v_deploy.models.store.reading import map_in_parts
from vl2v_deploy.models.store.views import view_pixels
from vl2v_deploy.models.teacher.protocol import Teacher, embed_pixels
from vl2v_deploy.recipe import AugmentationRecipe


def about_files(
    teacher: Teacher, files: Sequence[Path | bytes], keys: Sequence[bytes], pool: ThreadPoolExecutor
) -> Question:
    """About image files, or their bytes, as they are.

    keys: of each, the SHA-256 of its bytes
    """

    def open_item(item: int) -> Image.Image:
        file = files[item]
        if isinstance(file, Path):
            # Whoever hashed the file did so a while ago: no other image's answer gets its key.
            file = read_unchanged(file, keys[item].hex())
        return open_image(file, TRUSTED)

    def images(items: Sequence[int]) -> Iterator[Image.Image]:
        return map_in_parts(pool, open_item, items)

    def ask(items: Sequence[int]) -> Tensor:
        return teacher.embed_images(list(images(items)))

    return Question("image", images, ask, name=lambda item: source_name(files[item]))


def about_texts(teacher: Teacher, texts: Sequence[str]) -> Question:
    """About texts."""

    def some(items: Sequence[int]) -> Iterator[str]:
        return (texts[item] for item in items)

    def ask(items: Sequence[int]) -> Tensor:
        return teacher.embed_texts(list(some(items)))

    return Question("text", some, ask, name=lambda item: repr(texts[item]))


def about_views(
    teacher: Teacher,
    samples: Sequence[Sample],
    augmentation: AugmentationRecipe,
    views: int,
    pool: ThreadPoolExecutor,
) -> Question:
    """About the fixed augmented views of images: `views` places each, one image after another."""

    def pixels(items: Sequence[int]) -> Tensor:
        wanted = [(samples[item // views], item % views) for item in items]
        return view_pixels(teacher, wanted, augmentation, pool)

    def images(items: Sequence[int]) -> Iterator[Image.Image]:
        return map(Image.fromarray, pixels(items).cpu().numpy())

    def ask(items: Sequence[int]) -> Tensor:
        return embed_pixels(teacher, pixels(items))

    def name(item: int) -> str:
        return f"view {item % views} of {samples[item // views].path}"

    return Question("image", images, ask, name)
