"""Embeddings that a cascade in production has paid for, put into the store; see client.cascade.kept."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vl2v_deploy.client.cascade.kept import ANSWERS, KeptAnswer, embedding_from_text
from vl2v_deploy.client.typed_json import from_json
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.asked import log_asked
from vl2v_deploy.models.store.canaries import image_canaries_version
from vl2v_deploy.models.store.disk import on_disk
from vl2v_deploy.models.store.journal import alone, recover
from vl2v_deploy.models.store.keys import content_key, folder_name
from vl2v_deploy.models.store.shards import read_keys, split_keys, write_shard
from vl2v_deploy.models.teacher.protocol import Teacher

UNIT = 1e-3  # what the norm of an embedding may be off 1


@dataclass(frozen=True)
class Imported:
    """What came into the store.

    identity:  of the teacher
    imported:  images whose embeddings are new to the store
    held:      images that it held already
    left_out:  lines that could not be used, and why: each reason once, with how many there were
    """

    identity: str
    imported: int
    held: int
    left_out: dict[str, int]


def import_kept(folder: Path, root: Path, teacher: Teacher | None = None) -> Imported:
    """Puts the embeddings of a kept folder into the store, each under the content of its image.

    folder:  that a KeptFolder wrote
    root:    of the store
    teacher: whose embeddings they must be; None = as the folder says

    Lines that are torn, have no embedding, or whose image is gone or changed are left out and counted.

    Raises ModelError where there are none, they are of another teacher or of several, or the model gave
    itself another version than the one whose embeddings are held.
    """
    left_out: dict[str, int] = {}
    found: dict[bytes, tuple[KeptAnswer, np.ndarray]] = {}
    for line, file in _lines(folder):
        answer, why = _usable(line, file.parent)
        if answer is None or answer.embedding is None:
            left_out[why] = left_out.get(why, 0) + 1
        else:
            found[bytes.fromhex(answer.sha256)] = answer, embedding_from_text(answer.embedding)
    if not found:
        reasons = "; ".join(f"{count} {why}" for why, count in left_out.items()) or f"no {ANSWERS} below it"
        raise ModelError(f"{folder}: holds no teacher embedding to import: {reasons}")
    identity = _one_identity(folder, [answer for answer, _ in found.values()], teacher)
    _require_one_width(folder, [row for _, row in found.values()], teacher)
    store = root / folder_name(identity)
    with on_disk(store):
        store.mkdir(parents=True, exist_ok=True)
    _require_same_version(folder, store, {answer.version for answer, _ in found.values()})
    recover(store)
    width = len(next(iter(found.values()))[1])
    held = {key for shard in store.glob("*.safetensors") for key in split_keys(read_keys(shard, width))}
    new = {key: row for key, (_, row) in found.items() if key not in held}
    if new:
        rows = torch.from_numpy(np.stack(list(new.values())))
        with alone(store):
            write_shard(store / f"{uuid.uuid4().hex}.safetensors", b"".join(new), rows)
        log_asked(store, hits=0, misses=len(new))  # the cascade sent them
    return Imported(identity, len(new), len(found) - len(new), left_out)


def _lines(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob(ANSWERS)):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            yield line, file


def _usable(line: str, folder: Path) -> tuple[KeptAnswer | None, str]:
    """The answer of a line, or None and why not."""
    try:
        answer = from_json(KeptAnswer, json.loads(line))
        row = None if answer.embedding is None else embedding_from_text(answer.embedding)
        key = bytes.fromhex(answer.sha256)
    except ValueError:
        return None, "lines are torn or of another format"
    if row is None or answer.identity is None:
        return None, "answers have no embedding, or no teacher that names itself"
    if not abs(float(np.linalg.norm(row)) - 1.0) < UNIT:  # NaN too
        return None, "embeddings are not of unit length"
    image = folder / Path(answer.image).name
    if not image.is_file() or content_key(image) != key:
        return None, "images are gone, or are not those that were sent"
    return answer, ""


def _one_identity(folder: Path, answers: Sequence[KeptAnswer], teacher: Teacher | None) -> str:
    identities = sorted({str(answer.identity) for answer in answers})
    wanted = identities[0] if teacher is None else teacher.identity
    if others := [identity for identity in identities if identity != wanted]:
        raise ModelError(
            f"{folder}: holds embeddings of {', '.join(others)}, expected {wanted} alone: embeddings of two "
            "teachers lie in two spaces. Name the recipe of the teacher that was asked with --recipe, and "
            "import folders of different teachers one by one"
        )
    return wanted


def _require_one_width(folder: Path, rows: Sequence[np.ndarray], teacher: Teacher | None) -> None:
    widths = {len(row) for row in rows} | ({teacher.embedding_dim} if teacher else set())
    if len(widths) > 1:
        raise ModelError(f"{folder}: embeddings of {sorted(widths)} numbers, expected one width")


def _require_same_version(folder: Path, store: Path, versions: set[str | None]) -> None:
    known = image_canaries_version(store)
    versions = versions | ({known[0]} if known else set())
    if len(versions) > 1:
        said = ", ".join(sorted(version or "no name" for version in versions))
        raise ModelError(
            f"{folder}: the model gave itself several versions, those whose embeddings are held among them: "
            f"{said}. Their embeddings must not be mixed: keep the days of one version, move the others away"
        )
