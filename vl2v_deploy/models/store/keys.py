"""Keys of the embedding store: what an embedding is of, beside the teacher who gave it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vl2v_deploy.recipe import AugmentationRecipe

PARTS = 16  # of all keys, each with a lock of its own: so many processes can buy at once
# Part of every view's key: to be raised when data.augment draws or renders a view differently.
VIEW_VERSION = 1


def content_key(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def view_name(augmentation: AugmentationRecipe, view: int, size_px: int) -> str:
    """All that a fixed view depends on beside the image, and the preprocessing, which is the teacher's."""
    recipe = json.dumps(augmentation.model_dump(mode="json"), sort_keys=True)
    return f"view {view} at {size_px} px of {recipe}, version {VIEW_VERSION}"


def view_key(sha256: str, name: str) -> bytes:
    """The key of a view of the image with this content; the un-augmented image's is its hash itself."""
    content = bytes.fromhex(sha256)
    # All views of an image are of one part, so one process decodes it once and buys them together.
    return content[:1] + hashlib.sha256(content + name.encode()).digest()[1:]


def part_of(key: bytes) -> int:
    return key[0] % PARTS
