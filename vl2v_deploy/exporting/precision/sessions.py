"""An ONNX graph's answers in onnxruntime on the CPU, for all that export measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.client.student import open_session

BATCH = 32


def answers(model: onnx.ModelProto, images: Pixels) -> tuple[Floats, Floats]:
    """Logits (N, K) and embeddings (N, D) of a graph in memory; images uint8 (N, S, S, 3)."""
    return answers_of_session(open_exact(model.SerializeToString()), images)


def open_exact(onnx: Path | bytes) -> Any:
    """A session whose int8 answers are the same on every processor, for any weights."""
    return open_session(onnx, exact_int8=True)


def answers_of_session(session: Any, images: Pixels) -> tuple[Floats, Floats]:
    """Logits (N, K) and embeddings (N, D) of an open session; images uint8 (N, S, S, 3)."""
    parts = [run_session(session, images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    logits, embedding = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(embedding)


def run_session(session: Any, images: Pixels) -> tuple[Floats, Floats]:
    """Logits (B, K) and embeddings (B, D) of one batch; images uint8 (B, S, S, 3)."""
    logits, embedding = session.run(["logits", "embedding"], {"images": images})
    return logits, embedding
