"""A teacher that writes down what it is asked, and a process that buys from it (for test_embedding_store).

python buyer.py STORE PAID GO IMAGES BATCH SHARD SECONDS STALLS_AFTER
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vl2v_deploy.models.teacher.protocol import Price

DIM = 8


class WritingTeacher:
    """A direction for each image, from a hash of its pixels; every image it is asked is a line in PAID.

    stalls_after: how many images it answers for; from then on it keeps whoever asks waiting
    """

    embedding_dim, image_size_px, logit_scale = DIM, 16, 10.0
    price: Price | None = None

    def __init__(
        self,
        paid: Path,
        batch_size: int = 4,
        seconds: float = 0.0,
        identity: str = "w@1",
        stalls_after: float = math.inf,
    ) -> None:
        self.paid, self.batch_size, self.seconds, self.identity = paid, batch_size, seconds, identity
        self.answers_left = stalls_after

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        return self._answer([np.asarray(image.convert("RGB")) for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        raise AssertionError("nothing here is about texts")

    def _answer(self, images: Sequence[np.ndarray]) -> Tensor:
        assert 0 < len(images) <= self.batch_size
        time.sleep(self.seconds if self.answers_left > 0 else 600)
        self.answers_left -= len(images)
        with self.paid.open("a") as file:
            file.write("".join(hashlib.sha256(image.tobytes()).hexdigest() + "\n" for image in images))
        rows = [hashlib.sha256(image.tobytes()).digest()[:DIM] for image in images]
        answer = torch.tensor([[byte - 127.5 for byte in row] for row in rows])
        return torch.nn.functional.normalize(answer, dim=1)


def main(
    store: str, paid: str, go: str, images: str, batch: str, shard: str, seconds: str, stalls_after: str
) -> None:
    from vl2v_deploy.models.store import store as embedding_store

    embedding_store.SHARD_SIZE = int(shard)
    teacher = WritingTeacher(Path(paid), int(batch), float(seconds), stalls_after=float(stalls_after))
    ours = embedding_store.EmbeddingStore(Path(store), teacher)
    print("ready", flush=True)
    while not Path(go).exists():
        time.sleep(0.01)
    rows = ours.embed(sorted(Path(images).rglob("*.png")))
    print(hashlib.sha256(rows.numpy().tobytes()).hexdigest(), ours.queries, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
