"""A teacher that was asked elsewhere: its answers lie in two files, of images and of texts.

Each file is a table, Parquet (a file, or the folder of part files that Spark writes) or NPZ:

    images    sha256 (of the image file's bytes, hexadecimal) or path (relative to data.root), embedding (D,)
    texts     text (a whole prompt) or class (its name), embedding (D,)

Embeddings may have any norm. Rows that no recipe asks for do no harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vl2v_deploy.errors import MissingExtra, ModelError
from vl2v_deploy.recipe import PrecomputedRecipe, fixed_scale
from vl2v_deploy.regular_files import open_regular

NAMED = 5  # of the keys that an error is about
EMBEDDING = "embedding"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """Embeddings by key.

    source:     what errors call it: the recipe's field and the file
    column:     what its keys are: sha256 or path, text or class
    row_of:     key -> row
    embeddings: (N, D), L2-normalised
    """

    source: str
    column: str
    row_of: dict[str, int]
    embeddings: Tensor

    def take(self, keys: Sequence[str | None], shown: Sequence[str], hint: str = "") -> Tensor:
        """The rows of these keys, (len(keys), D).

        keys:  None for what the table does not know
        shown: what errors call each of them

        Raises ModelError that counts and names the missing ones.
        """
        missing = [name for key, name in zip(keys, shown, strict=True) if key not in self.row_of]
        if missing:
            raise ModelError(
                f"{self.source}: has no embedding of {len(set(missing))} that are asked for: "
                f"{_first(missing)}; its keys are in the column {self.column}, such as "
                f"{_first(self.row_of, 1)}{hint}"
            )
        return self.embeddings[[self.row_of[key] for key in keys if key is not None]]


@dataclass(frozen=True)
class PrecomputedTeacher:
    """Embeddings that a user brings; a `FileTeacher` (see protocol.py)."""

    identity: str
    logit_scale: float | None
    images: Table
    texts: Table
    batch_size: int = 1024
    image_size_px: int = 224  # of no meaning: it looks at no image
    price: None = None

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.images.embeddings.shape[1]

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Refused: a picture without its file cannot be looked up."""
        raise ModelError(
            f"{self.images.source}: knows image files as they are; it cannot answer about {len(images)} "
            "other image(s), such as augmented ones: set teacher_views: 0, or use a teacher that can be asked"
        )

    def embed_files(self, paths: Sequence[Path], sha256: Sequence[str]) -> Tensor:
        """I(x) of image files, by content or by the end of their path; float32 (B, D)."""
        keys: Sequence[str | None]
        keys = sha256 if self.images.column == "sha256" else [self._key_of(path) for path in paths]
        return self.images.take(keys, [str(path) for path in paths])

    def _key_of(self, path: Path) -> str | None:
        """The end of the path, domain/class/image or longer, that the table has: data.root may have moved."""
        ends = ("/".join(path.parts[-length:]) for length in range(3, len(path.parts) + 1))
        return next((end for end in ends if end in self.images.row_of), None)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """T(c); float32 (len(texts), D)."""
        of_classes = self.texts.column == "class"
        hint = "; with embeddings of classes, set prompts.style: class_name" if of_classes else ""
        return self.texts.take(texts, texts, hint)


def load_precomputed(recipe: PrecomputedRecipe) -> PrecomputedTeacher:
    """The teacher whose answers a recipe's two files hold.

    Raises ModelError for a file that is missing or no such table, for keys that occur twice, and for
    embeddings that are not finite, zero, or of different dimensions; MissingExtra where pyarrow is missing.
    """
    images = _read_table(Path(recipe.images), "teacher.images", ("sha256", "path"))
    texts = _read_table(Path(recipe.texts), "teacher.texts", ("text", "class"))
    dims = images.embeddings.shape[1], texts.embeddings.shape[1]
    if dims[0] != dims[1]:
        raise ModelError(
            f"{texts.source}: its embeddings have {dims[1]} dimensions, those of images {dims[0]}: they must "
            "be of one space"
        )
    digest = hashlib.sha256()
    for file in (*_files(Path(recipe.images)), *_files(Path(recipe.texts))):
        with open_regular(file) as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return PrecomputedTeacher(
        identity=f"precomputed#{digest.hexdigest()[:16]}",
        logit_scale=fixed_scale(recipe),
        images=images,
        texts=texts,
    )


def _files(path: Path) -> list[Path]:
    """The table's files; of a folder without those that Spark and others put beside the data."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*.parquet") if not file.name.startswith((".", "_")))


def _read_table(path: Path, field: str, key_columns: tuple[str, str]) -> Table:
    source = f"{field}: {path}"
    if not path.exists() or not _files(path):
        raise ModelError(f"{source}: no such file, or a folder without .parquet files")
    read = _read_npz if path.suffix == ".npz" else _read_parquet
    try:
        for file in _files(path):
            open_regular(file).close()
        columns = read(path, (EMBEDDING, *key_columns))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these too
        raise ModelError(f"{source}: cannot be read: {' '.join(str(error).split())}") from error
    found = [name for name in key_columns if name in columns]
    if EMBEDDING not in columns or len(found) != 1:
        raise ModelError(
            f"{source}: expected the columns {EMBEDDING} and either {' or '.join(key_columns)}, "
            f"got {', '.join(columns) or 'none of them'}"
        )
    keys = [_normal_key(str(key), found[0]) for key in columns[found[0]].tolist()]
    return _checked_table(source, found[0], keys, columns[EMBEDDING])


def _normal_key(key: str, column: str) -> str:
    match column:
        case "sha256":
            return key.lower()
        case "path":
            return key.replace("\\", "/").removeprefix("./")
        case "class":
            return key.replace("_", " ")  # as prompts spell a folder's name
    return key


def _checked_table(source: str, column: str, keys: Sequence[str], embeddings: npt.NDArray[Any]) -> Table:
    if embeddings.ndim != 2 or len(embeddings) != len(keys) or 0 in embeddings.shape:
        raise ModelError(
            f"{source}: expected an embedding (D,) for each of {len(keys)} keys, got an array of shape "
            f"{embeddings.shape}"
        )
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) < len(keys):
        twice = [key for row, key in enumerate(keys) if row_of[key] != row]
        raise ModelError(f"{source}: {len(twice)} key(s) occur more than once: {_first(twice)}")
    vectors: Floats = embeddings.astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)  # (N,)
    for what, wrong in (("not finite", ~np.isfinite(norms)), ("zero", norms == 0)):
        if wrong.any():
            bad = [keys[row] for row in np.flatnonzero(wrong).tolist()]
            raise ModelError(f"{source}: {len(bad)} embedding(s) are {what}: {_first(bad)}")
    return Table(source, column, row_of, F.normalize(torch.from_numpy(vectors), dim=1))


def _read_npz(path: Path, wanted: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:  # a table is data: it must not run code
        return {name: arrays[name] for name in wanted if name in arrays}


def _read_parquet(path: Path, wanted: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        from pyarrow import parquet
    except ImportError as missing:
        raise MissingExtra("pyarrow", "parquet", "; or save the embeddings as NPZ") from missing
    names = set(parquet.ParquetDataset(path).schema.names)
    table = parquet.read_table(path, columns=[name for name in wanted if name in names])
    to_numpy: dict[str, Callable[[Any], npt.NDArray[Any]]] = {EMBEDDING: _matrix}
    return {
        name: to_numpy.get(name, lambda column: np.array(column.to_pylist()))(table[name])
        for name in table.column_names
    }


def _matrix(column: Any) -> npt.NDArray[Any]:
    """A column of lists as (N, D). Chunk by chunk: together their offsets may not fit 32 bits.

    Raises ValueError for rows that are missing or of different lengths.
    """
    chunks = []
    for chunk in column.chunks:
        lengths = set(chunk.value_lengths().to_pylist())
        if chunk.null_count or len(lengths) > 1:
            raise ValueError(
                f"embeddings that are null, or of different lengths: {sorted(map(str, lengths))}"
            )
        if len(chunk):
            chunks.append(chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1))
    return np.concatenate(chunks) if chunks else np.empty((0, 0))


def _first(names: Iterable[str], most: int = NAMED) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(map(repr, distinct[:most])) + (", ..." if len(distinct) > most else "")
