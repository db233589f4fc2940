"""Keys of the embedding store: what an embedding is of, beside the teacher who gave it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from vl2v_deploy.recipe import AugmentationRecipe

PARTS = 16  # of all keys, each with its own lock: the number of processes that can buy at once
# Part of every view's key: raise it when data.augment draws or renders a view differently.
VIEW_VERSION = 2


def folder_name(identity: str) -> str:
    """The name of a teacher's folder in the store."""
    return re.sub(r"[^A-Za-z0-9._#@-]+", "_", identity)


def content_key(image: Path | bytes) -> bytes:
    """The key of an image file, or of its bytes, as it is: SHA-256 of the bytes."""
    return hashlib.sha256(image if isinstance(image, bytes) else image.read_bytes()).digest()


def view_name(augmentation: AugmentationRecipe, view: int, size_px: int) -> str:
    """What a fixed view depends on, apart from the image and the teacher's own preprocessing."""
    recipe = json.dumps(augmentation.model_dump(mode="json"), sort_keys=True)
    return f"view {view} at {size_px} px of {recipe}, version {VIEW_VERSION}"


def view_key(sha256: str, name: str) -> bytes:
    """The key of a view of the image with this content; the key of the un-augmented image is its hash."""
    content = bytes.fromhex(sha256)
    # All views of an image fall into one part, so one process decodes it once and buys them together.
    return content[:1] + hashlib.sha256(content + name.encode()).digest()[1:]


def text_key(text: str) -> bytes:
    """The key of a text."""
    return hashlib.sha256(b"text\0" + text.encode()).digest()


def part_of(key: bytes) -> int:
    """The part, 0 to PARTS - 1, whose lock a buyer of this key must hold."""
    return key[0] % PARTS
