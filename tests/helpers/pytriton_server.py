"""A real Triton server, run by .venv-triton: python -m tests.helpers.pytriton_server HTTP_PORT

Models `vision` (encoded files, BYTES), `pixels` (UINT8) and `words` (texts, BYTES); each batches requests.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.colour_model import DIMENSIONS, embed_images, embed_texts

MOST_PX = 64


def vision(images: Any) -> dict[str, Any]:
    """images: object (B, 1), encoded files"""
    return {"embeddings": embed_images([Image.open(io.BytesIO(one[0])) for one in images])}


def pixels(images: Any) -> dict[str, Any]:
    """images: uint8 (B, H, W, 3)"""
    return {"embeddings": embed_images([Image.fromarray(one) for one in images])}


def words(texts: Any) -> dict[str, Any]:
    """texts: object (B, 1), UTF-8"""
    return {"embeddings": embed_texts([one[0].decode() for one in texts])}


def main(port: int) -> None:
    # Here, so that the environment of the tests, which has no pytriton, can import this file too.
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    ports = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        grpc_address="127.0.0.1",
    )
    outputs = [Tensor(name="embeddings", dtype=np.float32, shape=(DIMENSIONS,))]
    config = ModelConfig(max_batch_size=16, batcher=DynamicBatcher(max_queue_delay_microseconds=2000))
    with Triton(config=ports) as triton:
        for name, function, tensor in (
            ("vision", vision, Tensor(name="images", dtype=np.bytes_, shape=(1,))),
            ("pixels", pixels, Tensor(name="images", dtype=np.uint8, shape=(-1, -1, 3))),
            ("words", words, Tensor(name="texts", dtype=np.bytes_, shape=(1,))),
        ):
            triton.bind(name, batch(function), inputs=[tensor], outputs=outputs, config=config)
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
