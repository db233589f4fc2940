"""Teacher embeddings are bought once: a store on disk, keyed by teacher and image content.

    STORE/<teacher>/<unique>.safetensors    a shard: embedding (n, D) float32, sha256 (n, 32) uint8

Shards are only ever added, each under a name of its own and by rename, so processes can share a store and
a killed one loses at most the shard it was filling.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vl2v_deploy.client.preprocess import open_image
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.teacher import Teacher

SHARD_SIZE = 1024


class EmbeddingStore:
    """The embeddings that one teacher has given so far.

    queries: how many images this object sent to the teacher
    """

    def __init__(self, root: Path, teacher: Teacher) -> None:
        self.teacher = teacher
        self.folder = root / re.sub(r"[^A-Za-z0-9._#@-]+", "_", teacher.identity)
        self.queries = 0
        self._rows: dict[bytes, Tensor] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._read(shard)

    def embed(self, paths: Sequence[Path], description: str = "Teacher embeddings") -> Tensor:
        """I(x) of each image file as it is, un-augmented; float32 (N, D), L2-normalised.

        An image whose bytes the teacher has seen before is not sent again.
        """
        with ThreadPoolExecutor() as pool:
            keys = list(pool.map(_content_key, paths))
        unseen = {key: path for key, path in zip(keys, paths, strict=True) if key not in self._rows}
        if unseen:
            self._query(unseen, description)
        return torch.stack([self._rows[key] for key in keys])  # (N, D)

    def _query(self, unseen: dict[bytes, Path], description: str) -> None:
        size = self.teacher.batch_size
        pending: dict[bytes, Tensor] = {}
        items = list(unseen.items())
        progress = track(range(0, len(items), size), description, console=Console(stderr=True))
        try:
            for start in progress:
                batch = items[start : start + size]
                rows = self.teacher.embed_images([open_image(path) for _, path in batch])
                self.queries += len(batch)
                pending.update(zip((key for key, _ in batch), rows, strict=True))
                if len(pending) >= SHARD_SIZE:
                    self._write(pending)
                    pending = {}
        finally:  # what was paid for is kept, also on Ctrl-C
            if pending:
                self._write(pending)

    def _write(self, rows: dict[bytes, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        keys = torch.from_numpy(np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 32).copy())
        unfinished = shard.with_suffix(".partial")
        save_file({"embedding": torch.stack(list(rows.values())), "sha256": keys}, unfinished)
        unfinished.replace(shard)
        self._rows.update(rows)

    def _read(self, shard: Path) -> None:
        try:
            content = load_file(shard)
            keys, rows = content["sha256"].numpy(), content["embedding"]
        except (SafetensorError, KeyError, OSError) as error:
            raise ModelError(
                f"{shard}: damaged embedding shard ({error}); delete it and run again"
            ) from error
        self._rows.update((key.tobytes(), row) for key, row in zip(keys, rows, strict=True))


def _content_key(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
