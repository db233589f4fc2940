"""The golden samples of a bundle: encoded images, and what export recorded of them in expected.npz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.arrays import Arrays, arrays_of
from vl2v_deploy.client.bundle import GOLDEN, Bundle
from vl2v_deploy.errors import BundleError


@dataclass(frozen=True)
class Golden:
    """N golden samples.

    file:   expected.npz
    arrays: all that it holds: images uint8 (N, S, S, 3), logits float (N, K) of torch, logits_<precision>
    embedding_dim: D
    paths:  of the N encoded images
    """

    file: Path
    arrays: Arrays
    embedding_dim: int
    paths: tuple[Path, ...]

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        return self.arrays["images"]

    @property
    def embedding(self) -> npt.NDArray[np.floating[Any]]:
        """torch's, float (N, D); BundleError where it is not there."""
        return self.answers("embedding", (len(self.paths), self.embedding_dim))

    def answers(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.floating[Any]]:
        """The recorded answers of this name; BundleError unless they are numbers of this shape."""
        return _numbers(self.file, self.arrays, name, shape)


def golden_of(bundle: Bundle) -> Golden:
    """The golden samples of an open bundle.

    Raises BundleError when they are not those of its classes and image size, or name an image that
    SHA256SUMS does not list.
    """
    file = bundle.path / GOLDEN
    arrays = arrays_of(file)
    names, images = (_array(file, arrays, name) for name in ("names", "images"))
    if names.dtype.kind != "U" or names.ndim != 1 or not len(names):
        raise BundleError(f"{file}: names: expected at least one text, got {_told(names)}")
    size = bundle.image_size_px
    if images.dtype != np.uint8 or images.shape != (len(names), size, size, 3):
        raise BundleError(
            f"{file}: images: expected uint8 {(len(names), size, size, 3)}, got {_told(images)}"
        )
    _numbers(file, arrays, "logits", (len(names), len(bundle.classes)))
    folder = Path(GOLDEN).parent
    listed = [(folder / str(name)).as_posix() for name in names]
    for name in listed:
        if name not in bundle.sums:
            raise BundleError(f"{file}: names: {name[:100]!r} is not in SHA256SUMS: refused")
    return Golden(file, arrays, bundle.embedding_dim, tuple(bundle.path / name for name in listed))


def _array(file: Path, arrays: Arrays, name: str) -> npt.NDArray[Any]:
    if name not in arrays:
        raise BundleError(f"{file}: {name}: is missing; export the run again")
    return arrays[name]


def _numbers(file: Path, arrays: Arrays, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.floating[Any]]:
    array = _array(file, arrays, name)
    if array.dtype.kind != "f" or array.shape != shape:
        raise BundleError(f"{file}: {name}: expected numbers of shape {shape}, got {_told(array)}")
    return array


def _told(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype.str[:40]} of shape {str(array.shape)[:60]}"
