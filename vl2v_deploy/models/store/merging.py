"""`vl2v-deploy teacher merge`: stores that were filled apart become one, with what was paid for them.

A store is a folder that VL2V_DEPLOY_CACHE named: embeddings/ and ledgers/ are in it. All stores are checked
before anything is written. What is there already is not added again: merging twice is merging once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from filelock import FileLock

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.ledger.merging import in_flight, merge_ledger
from vl2v_deploy.models.store.asked import merge_asked, read_asked
from vl2v_deploy.models.store.canaries import LEAST_COSINE, Kind, canaries_version, copy_canaries
from vl2v_deploy.models.store.damage import Damage, parts_set_aside
from vl2v_deploy.models.store.disk import on_disk
from vl2v_deploy.models.store.journal import SUFFIX, alone, recover
from vl2v_deploy.models.store.keys import folder_name
from vl2v_deploy.models.store.shards import embedding_shape, read_keys, read_rows, split_keys, write_shard
from vl2v_deploy.models.teacher.protocol import Teacher

EMBEDDINGS, LEDGERS = "embeddings", "ledgers"
_KINDS: tuple[Kind, ...] = ("image", "text")


@dataclass(frozen=True)
class Merged:
    """What came into a store.

    teacher: name of its folder, which is made from its identity
    added:   embeddings that are new to the store
    held:    embeddings that it held already, or that an earlier one of the stores brought
    """

    teacher: str
    added: int = 0
    held: int = 0


class _New(NamedTuple):
    """A shard, and those of its rows that are to be added."""

    shard: Path
    rows: list[int]


def merge_stores(stores: Sequence[Path], into: Path, teacher: Teacher | None = None) -> Merged:
    """Adds the embeddings of one teacher in `stores`, the log of what was asked and the bill, to `into`.

    teacher: whose embeddings; None = of the one teacher that the stores know

    Raises ModelError that names the store which is none, is damaged, is being written, or holds embeddings of
    another teacher; nothing was written then.
    """
    name = _one_teacher(stores, teacher)
    target = into / EMBEDDINGS / name
    if into.resolve() in {store.resolve() for store in stores}:
        raise ModelError(f"{into}: is one of the stores to merge; name another one with --into")
    with on_disk(target):
        target.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target / ".merging")
        lock.acquire()
    try:
        new, merged = _checked([store / EMBEDDINGS / name for store in stores], target, teacher)
        _require_settled(stores, name)
        for part in new:
            _add(part, target)
        for store in stores:
            merge_asked(store / EMBEDDINGS / name, target)
            for kind in _KINDS:
                copy_canaries(store / EMBEDDINGS / name, target, kind)
            for ledger in _ledgers(store):
                merge_ledger(ledger, into / LEDGERS / ledger.name, lambda of: folder_name(of) == name)
    finally:
        lock.release()
    return replace(merged, teacher=name)


def _add(part: _New, target: Path) -> None:
    keys = list(split_keys(read_keys(part.shard)))
    shard = target / part.shard.name
    if shard.exists():  # with other rows of it, of an earlier merge
        shard = target / f"{uuid.uuid4().hex}.safetensors"
    with alone(target):
        write_shard(shard, b"".join(keys[row] for row in part.rows), read_rows(part.shard, part.rows))


def _ledgers(store: Path) -> list[Path]:
    return sorted((store / LEDGERS).glob("*.sqlite"))


def _one_teacher(stores: Sequence[Path], teacher: Teacher | None) -> str:
    """The name of the folder that every store has."""
    holders: dict[str, list[Path]] = {}
    for store in stores:
        for folder in sorted((store / EMBEDDINGS).glob("*/")):
            holders.setdefault(folder.name, []).append(store)
    if teacher is None and len(holders) > 1:
        listed = "; ".join(f"{name} in {', '.join(map(str, of))}" for name, of in holders.items())
        raise ModelError(
            f"the stores hold embeddings of {len(holders)} teachers, expected one: {listed}. Leave out the "
            "store that is foreign, or name the recipe of the teacher to merge with --recipe"
        )
    name = folder_name(teacher.identity) if teacher else next(iter(holders), "")
    for store in stores:
        if store not in holders.get(name, ()):
            raise ModelError(
                f"{store}: is no store with embeddings of {name or 'a teacher'}: expected a folder that "
                f"VL2V_DEPLOY_CACHE named when they were bought, with {EMBEDDINGS}/{name} in it"
            )
    return name


def _checked(folders: Sequence[Path], target: Path, teacher: Teacher | None) -> tuple[list[_New], Merged]:
    """What is to be added to `target`, after every shard was read and nothing was found wrong."""
    holder: dict[bytes, Path] = {}
    width: int | None = teacher.embedding_dim if teacher else None
    new, added, held = [], 0, 0
    _require_same_versions([target, *folders])
    for folder in (target, *folders):
        for shard, keys, dim in _whole_shards(folder):
            if width not in (None, dim):
                raise ModelError(
                    f"{shard}: embeddings of {dim} numbers, where the other stores, or the teacher, have "
                    f"{width}: it is of another teacher; leave out its store"
                )
            width = dim
            known = {row: holder[key] for row, key in enumerate(keys) if key in holder}
            _require_same_answers(shard, keys, known)
            holder.update((key, shard) for key in keys if key not in holder)
            if folder != target:
                held, added = held + len(known), added + len(keys) - len(known)
                if len(known) < len(keys):
                    new.append(_New(shard, [row for row in range(len(keys)) if row not in known]))
    return new, Merged("", added, held)


def _whole_shards(folder: Path) -> Iterator[tuple[Path, list[bytes], int]]:
    """Each shard of a folder, with its keys and its width; ModelError for what is damaged."""
    try:
        recover(folder)
        if journals := sorted(folder.glob(f"*{SUFFIX}")):
            raise ModelError(
                f"{folder}: is being written ({journals[0].name}); merge it when that purchase has ended"
            )
        if set_aside := parts_set_aside(folder):
            raise Damage(f"{set_aside[0]}: damaged, and set aside")
        read_asked(folder)
        for shard in sorted(folder.glob("*.safetensors")):
            rows, dim = embedding_shape(shard)
            read_rows(shard, range(rows))
            yield shard, list(split_keys(read_keys(shard))), dim
    except Damage as damage:
        store = folder.parent.parent
        raise ModelError(
            f"{store}: is damaged, so nothing was merged ({damage.what}). Put back an undamaged copy of "
            f"the file; or, with VL2V_DEPLOY_CACHE={store}, run `vl2v-deploy teacher repair --buy-again`, "
            "buy what is missing, and merge again"
        ) from damage


def _require_same_answers(shard: Path, keys: Sequence[bytes], known: dict[int, Path]) -> None:
    """ModelError where a shard and those that hold some of its keys have different answers about them."""
    for other in set(known.values()):
        rows = [row for row, of in known.items() if of == other]
        row_of = {key: row for row, key in enumerate(split_keys(read_keys(other)))}
        answers = read_rows(other, [row_of[keys[row]] for row in rows])
        worst = float(F.cosine_similarity(read_rows(shard, rows), answers, dim=1).min())
        if worst < LEAST_COSINE:
            raise ModelError(
                f"{shard}: its answer about an image that {other} holds too is another one (cosine "
                f"{worst:.4f}, expected at least {LEAST_COSINE}): another model was behind the same name, "
                "and its embeddings must not be mixed with the others; leave out its store"
            )


def _require_same_versions(folders: Sequence[Path]) -> None:
    for kind in _KINDS:
        named = {folder: version for folder in folders if (version := canaries_version(folder, kind))}
        if len(set(named.values())) > 1:
            said = "; ".join(f"{version or 'no name'} in {of}" for of, (version,) in named.items())
            raise ModelError(
                f"the model gave itself several versions, whose embeddings must not be mixed: {said}. Leave "
                "out the stores of the others"
            )


def _require_settled(stores: Sequence[Path], name: str) -> None:
    for store in stores:
        for ledger in _ledgers(store):
            if count := in_flight(ledger, lambda of: folder_name(of) == name):
                raise ModelError(
                    f"{ledger}: {count} queries are in flight; merge {store} when that purchase has ended"
                )
