"""Canaries: what a vendor answered at the first purchase, asked again before each later one.

    STORE/<teacher>/canaries/image-<n>.png    up to 16 images, at most 64 px on the shorter side
    STORE/<teacher>/canaries/<kind>.json      kind is image or text: texts, the version of the model
    STORE/<teacher>/canaries/<kind>.safetensors    their embeddings

A vendor can put another model behind the same name. Its embeddings lie in another space, and nothing says so;
the canaries do. They cost 32 queries a purchase.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from vl2v_deploy.client.preprocess import to_rgb
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.disk import on_disk
from vl2v_deploy.models.store.shards import UNFINISHED
from vl2v_deploy.models.teacher.protocol import Vendor

FOLDER = "canaries"
CANARIES = 16
CANARY_PX = 64
LEAST_COSINE = 0.999
VERSION_CHARS = 200  # for which there is room before the model has named its version

Kind = Literal["image", "text"]


def ask_canaries_again(store: Path, teacher: Vendor) -> None:
    """Asks about the canaries that there are.

    store: folder of the teacher's embeddings

    Raises ModelError when the model answers otherwise than before, or gives itself another version.
    """
    kinds: tuple[Kind, ...] = ("image", "text")
    for kind in kinds:
        if _record_of(store / FOLDER, kind).is_file():
            _ask_again(store / FOLDER, teacher, kind)


def take_canaries(store: Path, teacher: Vendor, kind: Kind, first: Callable[[], Sequence[Any]]) -> None:
    """Makes the canaries of a kind, where there are none, from what is about to be bought.

    first: images (PIL) or texts
    """
    folder = store / FOLDER
    if _record_of(folder, kind).is_file():
        return
    lock = FileLock(store / ".canaries")
    with on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        if not _record_of(folder, kind).is_file():
            _ask_first(folder, teacher, kind, first()[:CANARIES])
    finally:
        lock.release()


def image_canaries_version(store: Path) -> tuple[str | None] | None:
    """The version that the model gave itself when the image canaries were taken; None where there are none.

    store: folder of the teacher's embeddings
    """
    return canaries_version(store, "image")


def canaries_version(store: Path, kind: Kind) -> tuple[str | None] | None:
    """The same of the canaries of a kind."""
    file = _record_of(store / FOLDER, kind)
    if not file.is_file():
        return None
    try:
        version = json.loads(file.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: is damaged ({error}); remove {file.parent} to take new canaries"
        ) from error
    return (version,)


def copy_canaries(store: Path, into: Path, kind: Kind) -> None:
    """Gives the canaries of one folder of the teacher's embeddings to another that has none of the kind."""
    if _record_of(into / FOLDER, kind).is_file() or not _record_of(store / FOLDER, kind).is_file():
        return
    with on_disk(into / FOLDER):
        (into / FOLDER).mkdir(parents=True, exist_ok=True)
        for file in (store / FOLDER).glob(f"{kind}*"):
            if file.suffix in (".png", ".safetensors"):
                _write(into / FOLDER / file.name, file.read_bytes())
        # Last, and whole: without it there are no canaries of this kind.
        unfinished = into / FOLDER / f"{kind}{UNFINISHED}"
        _write(unfinished, _record_of(store / FOLDER, kind).read_bytes())
        unfinished.replace(_record_of(into / FOLDER, kind))


def _ask_first(folder: Path, teacher: Vendor, kind: Kind, items: Sequence[Any]) -> None:
    """Asks about the items and keeps the answers; there is room on disk for them before anything is asked."""
    texts: list[str] = []
    answers = folder / f"{kind}.safetensors"
    with on_disk(folder):
        if kind == "image":
            for number, image in enumerate(items):
                _small(image).save(folder / f"image-{number}.png")
        else:
            texts = list(items)
        nothing = torch.zeros(len(items), teacher.embedding_dim)
        _write(answers, save({"embedding": nothing}))
        _write(folder / f"{kind}{UNFINISHED}", _record(len(items), texts, "x" * VERSION_CHARS))
    answer = (
        teacher.embed_images(_images(folder, len(items))) if kind == "image" else teacher.embed_texts(texts)
    )
    with on_disk(folder):
        _write(answers, save({"embedding": answer.float().cpu().contiguous()}))
        # Last, and whole: without it there are no canaries of this kind.
        unfinished = folder / f"{kind}{UNFINISHED}"
        _write(unfinished, _record(len(items), texts, teacher.answered_version))
        unfinished.replace(_record_of(folder, kind))


def _record(count: int, texts: Sequence[str], version: str | None) -> bytes:
    return json.dumps({"count": count, "texts": list(texts), "version": version}).encode()


def _write(file: Path, content: bytes) -> None:
    """Onto the disk itself, over what is in the file: no new room is needed where it was as long before."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(opened, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.ftruncate(stream.fileno(), len(content))
        os.fsync(stream.fileno())


def _ask_again(folder: Path, teacher: Vendor, kind: Kind) -> None:
    try:
        record = json.loads(_record_of(folder, kind).read_text(encoding="utf-8"))
        before = load_file(folder / f"{kind}.safetensors")["embedding"]
        images = _images(folder, record["count"]) if kind == "image" else []
        texts, version = record["texts"], record["version"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: the {kind} canaries are damaged ({error}), so it cannot be told whether the model is "
            "still the one whose embeddings are held; remove the folder to trust the model as it is now"
        ) from error
    now = teacher.embed_images(images) if kind == "image" else teacher.embed_texts(texts)
    worst = float((now * before).sum(dim=1).min())
    if worst >= LEAST_COSINE and version == teacher.answered_version:
        return
    raise ModelError(
        f"teacher: {teacher.identity} is another model now: {_difference(kind, worst)}, version "
        f"{teacher.answered_version or 'not named'} where {version or 'no name'} answered before. Its "
        f"embeddings must not be mixed with those that are held, so nothing was bought. Name the earlier "
        f"model in teacher.model if the vendor still has it; or, to start anew and pay for everything again, "
        f"move {folder.parent} away and pass --overwrite for runs that were begun"
    )


def _difference(kind: Kind, worst: float) -> str:
    relation = "as before" if worst >= LEAST_COSINE else f"expected at least {LEAST_COSINE}"
    return f"cosine of the {kind} canaries to what it answered before: {worst:.4f} ({relation})"


def _small(image: Image.Image) -> Image.Image:
    image = to_rgb(image)
    scale = CANARY_PX / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(round(side * scale), CANARY_PX) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _images(folder: Path, count: int) -> list[Image.Image]:
    found = []
    for number in range(count):
        with Image.open(folder / f"image-{number}.png") as image:
            found.append(image.convert("RGB"))
    return found


def _record_of(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind}.json"
