"""A recipe of a fake vendor, and pictures that its embeddings tell apart: classes are colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.helpers import tiny

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 150, 20)}
DOMAINS = ("ink", "paint", "photo")  # photo is the target


def make_colour_folder(root: Path, images: int = 8) -> Path:
    """root/domain/colour/number.png, every image different."""
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name, colour in COLOURS.items():
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(images):
                noise = rng.integers(-30, 31, (4, 4, 3)).repeat(5, axis=0).repeat(5, axis=1)
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def write_vendor_recipe(folder: Path, url: str, images: int = 8, **teacher: Any) -> Path:
    """A recipe that distills the tiny student from a vendor at `url`; teacher: fields to change."""
    file = tiny.write_recipe(folder, make_colour_folder(folder / "data", images))
    tree = yaml.safe_load(file.read_text())
    tree["teacher"] = {
        "kind": "http",
        "api": "openai",
        "url": url,
        "model": "colours",
        "dimensions": 16,
        "image": {"size_px": 20},
        "batch_size": 8,
        "usd_per_1k_images": 0.5,
        "usd_per_1k_texts": 0.1,
        "terms": {"url": "http://127.0.0.1/terms", "read_on": "2026-11-28", "permits": "internal"},
    } | teacher
    tree["prompts"] = {"style": "photo"}
    tree["align"]["steps"] = tree["distill"]["steps"] = 2
    file.write_text(yaml.safe_dump(tree))
    return file
