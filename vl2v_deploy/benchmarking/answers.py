"""Logits of student and teacher, on the measured images and on source validation; answers.npz.

They are what a cascade is judged from. Held as float16 differences from each image's largest logit: near the
top, where they decide, float16 resolves these differences to 0.05 % of themselves, so that labels and
probabilities stay what they were. A float16 of 100,000 images and 345 classes is 69 MB, which is no JSON.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import softmax
from vl2v_deploy.errors import BenchmarkError

Part: TypeAlias = Literal["measured", "validation"]
Key: TypeAlias = tuple[str, Part, str]  # engine, part, domain
Halves: TypeAlias = npt.NDArray[np.float16]
_KEYS = "keys"


@dataclass(frozen=True, eq=False)
class Answers:
    """Logits less each image's largest, float16 (N, K), of every engine, part and domain."""

    logits: Mapping[Key, Halves]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self.sha256() == other.sha256()

    def __hash__(self) -> int:
        return hash(self.sha256())

    def sha256(self) -> str:
        """Of all keys, shapes and values."""
        digest = hashlib.sha256()
        for key in sorted(self.logits):
            rows = np.ascontiguousarray(self.logits[key], "<f2")
            digest.update(repr((key, rows.shape)).encode())
            digest.update(rows.tobytes())
        return digest.hexdigest()

    def has(self, engine: str, domains: Iterable[str], part: Part) -> bool:
        """Whether there are logits of an engine on every one of these domains."""
        return all((engine, part, domain) in self.logits for domain in domains)

    def probabilities(
        self, engine: str, part: Part, domain: str, temperature: float = 1.0
    ) -> npt.NDArray[np.float64]:
        """softmax(logits / temperature) of each image of a domain; (N, K)."""
        rows = self.logits[engine, part, domain].astype(np.float32)
        return softmax(rows / np.float32(temperature))


def halves_from_logits(logits: npt.NDArray[np.float32]) -> Halves:
    """What is kept of logits (N, K): float16 differences from each row's largest.

    >>> halves_from_logits(np.array([[100.0, 99.99, -1e6]], np.float32)).tolist()
    [[0.0, -0.01000213623046875, -65504.0]]
    """
    rows = np.asarray(logits, np.float32)
    below = rows - rows.max(axis=1, keepdims=True)
    halves: Halves = np.maximum(below, np.finfo(np.float16).min).astype(np.float16)
    return halves


def text_from_logits(logits: npt.NDArray[np.float32]) -> str:
    """What is kept of logits (N, K), as a worker sends it: base64 of its bytes."""
    return base64.b64encode(halves_from_logits(logits).astype("<f2").tobytes()).decode("ascii")


def halves_from_text(text: str, n: int) -> Halves:
    """The logits (n, K) that a worker sent.

    >>> halves_from_text(text_from_logits(np.array([[0.0, 2.0]], np.float32)), n=1).tolist()
    [[-2.0, 0.0]]
    """
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float16).reshape(n, -1)


def write_answers(answers: Answers, file: Path) -> None:
    """Write answers.npz, compressed."""
    keys = list(answers.logits)
    arrays = {str(number): answers.logits[key] for number, key in enumerate(keys)}
    np.savez_compressed(file, **{_KEYS: np.array(keys, dtype=str).reshape(-1, 3)}, **arrays)  # type: ignore[arg-type]


def read_answers(file: Path, sha256: str) -> Answers:
    """The answers in answers.npz.

    sha256: that the report has of them

    Raises BenchmarkError for a file that cannot be read or holds other answers.
    """
    try:
        with np.load(file, allow_pickle=False) as held:
            keys = [tuple(map(str, key)) for key in held[_KEYS]]
            answers = Answers({key: held[str(number)] for number, key in enumerate(keys)})  # type: ignore[misc]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BenchmarkError(f"{file}: cannot be read: {error}; measure again") from error
    if answers.sha256() != sha256:
        raise BenchmarkError(
            f"{file}: holds other answers than the report beside it was made from; measure again, or put the "
            "right file there"
        )
    return answers
