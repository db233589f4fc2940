"""Images through an onnxruntime session, while it is open, and answers that are what the manifest says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.images import Pixels
from vl2v_deploy.client.providers import CPU
from vl2v_deploy.client.session import MOST_WORDS, Runtime
from vl2v_deploy.errors import BundleError, ClosedError, ProviderError, one_line

# Images in one run of the session on the CPU: more are no faster, but memory grows with each and onnxruntime
# keeps the most it ever needed (see benchmarks/client_memory.py).
MOST_ON_CPU = 32
OUTPUTS = ["logits", "embedding"]


def usable_session(session: Any | None, process: int, bundle: Bundle) -> Any:
    """The session, where it can answer; ClosedError where it was closed or came here by a fork.

    session: None = closed; given, so that another thread may close meanwhile
    process: the id of the process that loaded it
    """
    if session is None:
        raise ClosedError(f"the student of {bundle.source} is closed: load it again")
    if os.getpid() != process:  # its threads were not copied: it would wait for them without end
        raise ClosedError(
            f"the student of {bundle.source} was loaded before this process was forked: load it "
            "again here (gunicorn: in post_fork, or without --preload)"
        )
    return session


def most_at_once(runtime: Runtime) -> int | None:
    """Images in one run; None = as many as are given, on a GPU."""
    return MOST_ON_CPU if runtime.provider == CPU else None


def run_images(session: Any, images: Pixels, bundle: Bundle, runtime: Runtime) -> tuple[Floats, Floats]:
    """Logits (B, K) and embeddings (B, D), float32, of preprocessed images, some at a time.

    images: uint8 (B, S, S, 3)

    Raises BundleError when the graph fails on the CPU or answers in another shape than (B, K) and (B, D),
    ProviderError when it fails on another provider.
    """
    most = most_at_once(runtime) or len(images)
    if len(images) <= most:
        return _run_once(session, images, bundle, runtime)
    parts = [
        _run_once(session, images[first : first + most], bundle, runtime)
        for first in range(0, len(images), most)
    ]
    logits, embedding = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return logits, embedding


def _run_once(session: Any, images: Pixels, bundle: Bundle, runtime: Runtime) -> tuple[Floats, Floats]:
    file = bundle.onnx_of(runtime.precision)
    try:
        logits, embedding = session.run(OUTPUTS, {"images": images})
    except Exception as error:  # onnxruntime's errors have no base class of their own
        kind = BundleError if runtime.provider == CPU else ProviderError
        where = "" if runtime.provider == CPU else f" on {runtime.provider}"
        raise kind(f"{file}: fails on {len(images)} images{where}: {one_line(error)[:MOST_WORDS]}") from error
    widths = {"logits": len(bundle.classes), "embedding": bundle.embedding_dim}
    for (name, width), found in zip(widths.items(), (logits, embedding), strict=True):
        if found.shape != (len(images), width):
            raise BundleError(f"{file}: {name}: expected shape {(len(images), width)}, got {found.shape}")
    return logits, embedding
