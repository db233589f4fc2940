"""`vl2v-deploy teacher repair`: every embedding that is held is checked; what is damaged may be given up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.models.store.damage import Damage, give_up, parts_set_aside
from vl2v_deploy.models.store.disk import on_disk
from vl2v_deploy.models.store.journal import recover
from vl2v_deploy.models.store.shards import embedding_shape, read_keys, read_rows


@dataclass(frozen=True)
class Checked:
    """The parts of one teacher's folder.

    teacher:   name of the folder, which is made from its identity
    whole:     embeddings that are held and undamaged
    damaged:   a line for each part that this check found damaged, and set aside
    set_aside: names of all parts that are set aside, also earlier; given up now where that was asked for
    """

    teacher: str
    whole: int
    damaged: tuple[str, ...]
    set_aside: tuple[str, ...]


def check_store(root: Path, *, buy_again: bool) -> list[Checked]:
    """Checks every shard of every teacher under `root` against its checksums, and reads its embeddings.

    buy_again: agree that what damaged parts held is bought again, with the next purchase that lacks it

    Raises ModelError for what cannot be read, or not be renamed.
    """
    return [_check(folder, buy_again=buy_again) for folder in sorted(root.glob("*/"))]


def _check(folder: Path, *, buy_again: bool) -> Checked:
    whole, damaged = 0, []
    try:
        recover(folder)
    except Damage as damage:
        damaged.append(damage.what)
    for shard in sorted(folder.glob("*.safetensors")):
        try:
            rows, _ = embedding_shape(shard)
            read_keys(shard)
            read_rows(shard, range(rows))
            whole += rows
        except Damage as damage:
            damaged.append(damage.what)
    set_aside = tuple(part.name for part in parts_set_aside(folder))
    if buy_again and set_aside:
        with on_disk(folder):
            give_up(folder)
    return Checked(folder.name, whole, tuple(damaged), set_aside)
