"""A small folder of domains, as a user has it: root/domain/class/image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS = ("ink", "paint", "photo")
CLASSES = ("circle", "square")


def make_domain_folder(root: Path, images: int = 10) -> Path:
    """3 domains, 2 classes, every image different."""
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name in CLASSES:
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root
